"""Doubles of sensors: sysfs trees as real boards have them, an INA226 behind its registers, NVML, a clock."""

import os

# A TX2's chips on JetPack 4: (bus-address, IIO device) -> rails with mV, mA.
TX2_RAILS = {
    ("0-0040", "iio:device0"): [
        ("VDD_SYS_GPU", 19072, 40),
        ("VDD_SYS_SOC", 19072, 48),
        ("VDD_4V0_WIFI", 4776, 8),
    ],
    ("0-0041", "iio:device1"): [("VDD_IN", 19072, 216), ("VDD_SYS_CPU", 19064, 24), ("VDD_SYS_DDR", 4776, 208)],
    ("0-0042", "iio:device2"): [("VDD_MUX", 19088, 248), ("VDD_5V0_IO_SYS", 4992, 160), ("VDD_3V3_SYS", 3344, 40)],
    ("0-0043", "iio:device3"): [("VDD_3V3_IO_SLP", 3344, 0), ("VDD_1V8_IO", 1808, 80), ("VDD_M2_IN", 3344, 0)],
}


class Clock:
    """Seconds that pass only when somebody sleeps, or looks: `tick_s` a look."""

    def __init__(self, tick_s=0.0):
        self.now_s = 100.0
        self.tick_s = tick_s

    def __call__(self):
        self.now_s += self.tick_s
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


def write(path, content):
    """A file of a sysfs tree, with the line end that drivers add."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n".format(content))


def tx2_iio(root, rails=None):
    """JetPack 4's tree of a TX2 below `root`; returns the folder of each chip."""
    folders = {}
    for (chip, device), channels in (rails or TX2_RAILS).items():
        base = root / "sys/bus/i2c/drivers/ina3221x" / chip
        folder = folders[chip] = base / device
        write(folder / "running_mode", 0)
        write(folder / "polling_delay_0", "0 ms")
        for number, (name, millivolts, milliamperes) in enumerate(channels):
            write(folder / "rail_name_{}".format(number), name)
            write(folder / "in_voltage{}_input".format(number), millivolts)
            write(folder / "in_current{}_input".format(number), milliamperes)
            write(folder / "in_power{}_input".format(number), millivolts * milliamperes // 1000)
            # Not the power: the driver's other way to read, which changes its mode.
            write(folder / "in_power{}_trigger_input".format(number), 99999)
            write(folder / "crit_current_limit_{}".format(number), "32760 ma")
            shunt = base / "of_node/channel@{}/ti,shunt-resistor-mohm".format(number)
            shunt.parent.mkdir(parents=True, exist_ok=True)
            shunt.write_bytes((10 if name != "VDD_IN" else 5).to_bytes(4, "big"))
    return folders


def hwmon_ina3221(root, chip, number, rails):
    """One chip of JetPack 5 and later below `root`: rails are (name, mV, mA), None for a channel without a name."""
    folder = root / "sys/bus/i2c/drivers/ina3221" / chip / "hwmon" / "hwmon{}".format(number)
    write(folder / "name", "ina3221")
    write(folder / "update_interval", 1)
    write(folder / "samples", 4)
    for channel, rail in enumerate(rails, 1):
        if rail is not None:
            name, millivolts, milliamperes = rail
            write(folder / "in{}_label".format(channel), name)
            write(folder / "in{}_enable".format(channel), 1)
            write(folder / "in{}_input".format(channel), millivolts)
            write(folder / "curr{}_input".format(channel), milliamperes)
            write(folder / "shunt{}_resistor".format(channel), 5000)
            # The shunt's voltage, in uV, has a number of its own.
            write(folder / "in{}_input".format(channel + 3), milliamperes * 5)
    write(folder / "in7_label", "sum of shunt voltages")
    write(folder / "in7_input", 4321)
    return folder


def rapl(root, energies_uj=(1000,), range_uj=262143328850):
    """Intel's tree below `root`: packages, their parts, psys, the copy over MMIO; returns the packages' folders."""
    top = root / "sys/class/powercap"
    folders = []
    for number, energy_uj in enumerate(energies_uj):
        folder = top / "intel-rapl:{}".format(number)
        folders.append(folder)
        for path, name, value in (
            (folder, "package-{}".format(number), energy_uj),
            (top / "intel-rapl:{}:0".format(number), "core", 7),
        ):
            write(path / "name", name)
            write(path / "energy_uj", value)
            write(path / "max_energy_range_uj", range_uj)
    for other, name in (("intel-rapl:{}".format(len(folders)), "psys"), ("intel-rapl-mmio:0", "package-0")):
        write(top / other / "name", name)
        write(top / other / "energy_uj", 10**9)
        write(top / other / "max_energy_range_uj", range_uj)
    (top / "intel-rapl").mkdir()
    return folders


def hwmon_ina226(root, number=0, device="1-0040", microwatts=5000000, chip="ina226"):
    """A chip of the driver ina2xx below `root`; returns its folder."""
    folder = root / "sys/class/hwmon" / "hwmon{}".format(number)
    write(folder / "name", chip)
    write(folder / "in0_input", 41)
    write(folder / "in1_input", 5000)
    write(folder / "curr1_input", microwatts // 5000)
    write(folder / "power1_input", microwatts)
    write(folder / "shunt_resistor", 10000)
    write(folder / "update_interval", 2)
    real = root / "sys/devices/i2c-1" / device
    real.mkdir(parents=True)
    os.symlink(str(real), str(folder / "device"))
    return folder


class Ina226Bus:
    """An INA226 on an I2C bus: registers of 16 bits, big end first, that compute as the data sheet says.

    `clock` drives the conversions; `volts` and `amperes` are what flows through `shunt_ohm`.
    """

    def __init__(self, clock, shunt_ohm=0.01, address=0x40):
        self.clock = clock
        self.shunt_ohm = shunt_ohm
        self.address = address
        self.volts = 5.0
        self.amperes = 1.0
        self.identity = (0x5449, 0x2260)
        self.stuck = False
        self.broken = None
        self.written = []
        self.closed = False
        self._reset()

    def _reset(self):
        self.configuration = 0x4127
        self.calibration = 0
        self.ready_s = None

    def conversion_s(self):
        times_us = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
        averaged = (1, 4, 16, 64, 128, 256, 512, 1024)[self.configuration >> 9 & 7]
        return averaged * (times_us[self.configuration >> 6 & 7] + times_us[self.configuration >> 3 & 7]) / 1e6

    def registers(self):
        shunt = round(self.amperes * self.shunt_ohm / 2.5e-6)
        bus = round(self.volts / 1.25e-3)
        current = shunt * self.calibration // 2048
        overflow = not -0x8000 <= current <= 0x7FFF or not -0x8000 <= shunt <= 0x7FFF
        ready = not self.stuck and self.clock.now_s >= self.ready_s if self.ready_s is not None else False
        return {
            0: self.configuration,
            1: shunt & 0xFFFF,
            2: bus & 0x7FFF,
            3: abs(current) * bus // 20000 & 0xFFFF,
            4: current & 0xFFFF,
            5: self.calibration,
            6: ready << 3 | overflow << 2,
            0xFE: self.identity[0],
            0xFF: self.identity[1],
        }

    def read_i2c_block_data(self, address, register, length):
        self._answer(address)
        assert length == 2
        value = self.registers()[register]
        if register == 6 and value & 8:
            self.ready_s = self.clock.now_s + self.conversion_s()
        return [value >> 8, value & 0xFF]

    def write_i2c_block_data(self, address, register, data):
        self._answer(address)
        value = data[0] << 8 | data[1]
        self.written.append((register, value))
        if register == 0 and value & 0x8000:
            self._reset()
        elif register == 0:
            self.configuration = value
            self.ready_s = self.clock.now_s + self.conversion_s()
        elif register == 5:
            self.calibration = value & 0x7FFF

    def close(self):
        self.closed = True

    def _answer(self, address):
        if self.broken is not None:
            raise self.broken
        if address != self.address:
            raise OSError(121, "Remote I/O error")


class NvmlError(Exception):
    def __init__(self, value):
        super().__init__(
            {3: "Not Supported", 4: "Insufficient Permissions", 9: "Driver Not Loaded"}.get(value, "?")
        )
        self.value = value


class Nvml:
    """The module pynvml with one GPU. `has` are the questions beyond power that this generation answers."""

    NVMLError = NvmlError
    NVML_ERROR_NOT_SUPPORTED = 3

    def __init__(self, name=b"GeForce GTX 1080 Ti", has=()):
        self.name = name
        self.has = has
        self.power_mw = 55123
        self.energy_mj = 10**9
        self.reasons = 0
        self.fails = None
        self.begun = 0
        if "events" in has:
            self.nvmlDeviceGetCurrentClocksEventReasons = self._clocks

    def nvmlInit(self):  # noqa: N802
        if self.fails is not None:
            raise NvmlError(self.fails)
        self.begun += 1

    def nvmlShutdown(self):  # noqa: N802
        if not self.begun:
            raise NvmlError(1)
        self.begun -= 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._answer(None, "handle {}".format(index))

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self._answer(None, self.name)

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"470.256.02"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):  # noqa: N802
        return 250000

    def nvmlDeviceGetPersistenceMode(self, handle):  # noqa: N802
        raise NvmlError(3)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return self._answer(None, self.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return self._answer("energy", self.energy_mj)

    def nvmlDeviceGetFieldValues(self, handle, fields):  # noqa: N802
        assert fields == [186]
        self._answer(None, None)

        class Field:
            nvmlReturn = 0 if "instant" in self.has else 3  # noqa: N815

            class value:  # noqa: N801
                uiVal = self.power_mw + 7  # noqa: N815

        return [Field]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        return self._clocks(handle)

    def _clocks(self, handle):
        return self._answer("clocks", self.reasons)

    def _answer(self, needs, answer):
        if self.fails is not None:
            raise NvmlError(self.fails)
        if needs is not None and needs not in self.has:
            raise NvmlError(3)
        return answer
