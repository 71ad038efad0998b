/**
 * What a bottlekit client and a bottlekit server say to each other.
 *
 * Compact protocol, framed transport. Field ids below 16 in ascending order cost one byte each, a method's
 * name travels with every call: so names and fields are few and short, because a payload may be 45 bytes.
 *
 * A message carries a number (Thrift's sequence id) that its answer repeats: a client checks that they are equal.
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
  INTERNAL = 5,  // the server failed; its log says how
  BUSY = 6,      // a queue, a rate or the number of clients is at its limit: try again later
  DEADLINE = 7,  // the request's deadline passed before it was answered; its work was dropped
  IDENTITY = 8   // no token, or one that nobody here knows
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
  4: i32 tail_us              // of the batch this request was in; or of the whole network, for infer_image
  5: optional i32 queue_us    // from the request's last byte to the beginning of its work
  6: optional i16 batch       // how many requests were computed together, if more than one
}

struct Load {
  1: i32 connections
  2: i32 in_flight        // requests at work, this one not counted
  3: i64 answered
  4: i32 queued            // requests that wait for a tail
}

service Bottlekit {
  /**
   * The first call on a connection. `token` proves who calls, where the server asks for one; `deadline_ms` holds
   * for every request of this connection that has none of its own.
   */
  Welcome hello(1: i16 protocol, 2: string bottlekit, 3: binary token, 4: i32 deadline_ms) throws (1: Refused refused)
  /**
   * Decode a payload and run the tail. top_k = 0: all logits. deadline_ms: how long after its last byte has come
   * in a request is worth an answer.
   */
  Answer infer(1: i16 bundle, 2: binary payload, 3: i16 top_k, 4: i32 deadline_ms) throws (1: Refused refused)
  /** Run the whole network on an image file (JPEG or PNG). */
  Answer infer_image(1: i16 bundle, 2: binary image, 3: i16 top_k, 4: i32 deadline_ms) throws (1: Refused refused)
  /** How busy the server is; padding makes the request as long as wanted. */
  Load ping(1: binary padding) throws (1: Refused refused)
}
