"""Doubles of a Jetson's nvpmodel and jetson_clocks: real executables that keep their state in files beside them."""

# Both take their time, and write down how they were called.
NVPMODEL = """#!/bin/sh
here=$(dirname "$0")
echo "nvpmodel $*" >> "$here/log"
case $1 in
    -q) echo "NV Power Mode: MODE_$(cat "$here/mode")"; cat "$here/mode" ;;
    -m) sleep {pause}
        [ -e "$here/refuse" ] && echo "Error: must be root" && exit 1
        [ -e "$here/reboot" ] && echo "a reboot is required" && exit 0
        echo "$2" > "$here/mode" ;;
esac
"""
JETSON_CLOCKS = """#!/bin/sh
here=$(dirname "$0")
echo "jetson_clocks $1" >> "$here/log"
[ -e "$here/refuse-clocks" ] && echo "Error: run as root" && exit 1
case $1 in
    --store) [ -e "$2" ] && read answer && exit 1; cp "$here/clocks" "$2" ;;
    --restore) sleep {pause}; cp "$2" "$here/clocks" ;;
    *) sleep {pause}; echo locked > "$here/clocks" ;;
esac
"""

# Power mode and clocks as a board begins, and as `power_mode(0, lock_clocks=True)` wants them.
UNTOUCHED = ("3", "as they were")
SET = ("0", "locked")


class Board:
    """A folder of commands on PATH, and what they have done."""

    def __init__(self, folder, pause=0.0):
        self.folder = folder
        for name, script in (("nvpmodel", NVPMODEL), ("jetson_clocks", JETSON_CLOCKS)):
            (folder / name).write_text(script.format(pause=pause))
            (folder / name).chmod(0o755)
        (folder / "mode").write_text("3\n")
        (folder / "clocks").write_text("as they were\n")
        (folder / "log").write_text("")

    @property
    def state(self):
        return (self.folder / "mode").read_text().strip(), (self.folder / "clocks").read_text().strip()

    @property
    def changes(self):
        return [line for line in (self.folder / "log").read_text().splitlines() if not line.endswith("-q")]

    def has(self, name):
        (self.folder / name).write_text("")
