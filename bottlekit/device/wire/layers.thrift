/**
 * What two machines say to each other that run the layers of one network between them.
 *
 * Compact protocol, framed transport, as in bottlekit.thrift, whose messages stay as they are: there a payload of a
 * known size goes one way, here any tensors go both ways, as often as a schedule switches.
 *
 * Python is generated from this file once and committed, see generate.sh.
 */
namespace py layers

/** Spoken by both ends; raised when a change breaks older ones. */
const i16 PROTOCOL = 1

/** Why a request was refused. */
enum Code {
  PROTOCOL = 1,  // not spoken like this: another version, no hello, a task that does not exist
  NETWORK = 2,   // another network, or layers that it has not
  ARRAYS = 3,    // arrays that are damaged, missing, or do not fit the layers
  BUSY = 4,      // all places are taken
  INTERNAL = 5   // the server failed; its log says how
}

exception Refused {
  1: i32 code
  2: string message
}

/** The only kinds of numbers that travel. Little endian. */
enum Element {
  FLOAT32 = 1,
  FLOAT16 = 2,
  INT64 = 3
}

/** A named array: its numbers in C order; or, with a codec, that codec's payload of float32 (1, c, h, w). */
struct Array {
  1: string name
  2: i32 element
  3: list<i32> shape
  4: binary data
  5: optional string codec
}

/** Layers first..last, counted from 0 and both included. */
struct Span {
  1: i32 first
  2: i32 last
}

struct Welcome {
  1: i16 protocol
  2: string bottlekit
  3: i32 frame_bytes       // largest frame, without its four length bytes
}

/** What the server is to do with one of its segments. */
enum Task {
  INFER = 1,     // run it; the first one of an image forgets what is left of the image before
  FORWARD = 2,   // run it, and keep what its backward needs
  BACKWARD = 3,  // from the gradient of its output to that of its input
  LOAD = 4,      // take these weights
  APPLY = 5,     // the optimiser's step, on all segments whose backward ran here
  STATE = 6      // its weights, and what the optimiser keeps of them; all of them, whatever is `wanted`
}

service Layers {
  /**
   * The first call on a connection. `network`: the SHA-256 of what is cut. `settings`: what the work needs beside
   * the cuts.
   */
  Welcome hello(1: i16 protocol, 2: string bottlekit, 3: string network, 4: list<Span> segments,
                5: map<string, string> settings) throws (1: Refused refused)
  /** Do a task with the segment of that number in the hello; answers with the arrays `wanted`. */
  list<Array> run(1: i32 task, 2: i32 segment, 3: list<Array> arrays, 4: list<string> wanted)
    throws (1: Refused refused)
}
