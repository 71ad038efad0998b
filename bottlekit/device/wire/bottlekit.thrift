/**
 * What a bottlekit client and a bottlekit server say to each other.
 *
 * Compact protocol, framed transport. Field ids below 16 in ascending order cost one byte each, a method's
 * name travels with every call: so names and fields are few and short, because a payload may be 45 bytes.
 *
 * Python is generated from this file once and committed, see generate.sh.
 */
namespace py rpc

/** Spoken by both ends; raised when a change breaks older ones. */
const i16 PROTOCOL = 1

/** Why a request was refused. */
enum Code {
  PROTOCOL = 1,  // not spoken like this: another version, or no hello
  BUNDLE = 2,    // there is no bundle of that number
  PAYLOAD = 3,   // the bytes are no payload of that bundle
  IMAGE = 4,     // the bytes are no image
  INTERNAL = 5   // the server failed; its log says how
}

exception Refused {
  1: i32 code
  2: string message
}

/** One bundle of the server's fleet; its number is its place in the list. */
struct BundleInfo {
  1: string name
  2: string split
  3: string sha256         // of bundle.json, in hex
  4: i32 classes
  5: bool dynamic_batch
  6: bool baseline         // a cloud-only request runs the uncompressed network; without it the full graph
}

struct Limits {
  1: i32 frame_bytes       // largest frame, without its four length bytes
  2: i32 connections
  3: i32 idle_s            // a connection that stays silent for longer is closed
}

struct Welcome {
  1: i16 protocol
  2: string bottlekit
  3: list<BundleInfo> bundles
  4: Limits limits
}

struct Answer {
  1: binary logits            // float32, little endian: of all classes in order, or of `classes`
  2: optional binary classes  // uint16, little endian, best first; absent when all logits are sent
  3: i32 decode_us
  4: i32 tail_us              // or of the whole network, for infer_image
}

struct Load {
  1: i32 connections
  2: i32 in_flight        // requests at work, this one not counted
  3: i64 answered
}

service Bottlekit {
  /** The first call on a connection. */
  Welcome hello(1: i16 protocol, 2: string bottlekit) throws (1: Refused refused)
  /** Decode a payload and run the tail. top_k = 0: all logits. */
  Answer infer(1: i16 bundle, 2: binary payload, 3: i16 top_k) throws (1: Refused refused)
  /** Run the whole network on an image file (JPEG or PNG). */
  Answer infer_image(1: i16 bundle, 2: binary image, 3: i16 top_k) throws (1: Refused refused)
  /** How busy the server is; padding makes the request as long as wanted. */
  Load ping(1: binary padding) throws (1: Refused refused)
}
