// Judges a description that came over the wire before anything is built from it: that it is whole,
// refers only to what it contains, and holds no value that could not have come from a kernel. A
// peer with a certificate may still be wrong; what restores may then rely on what is checked here.
// The last description comes in the blackout and is not judged again: what takes foreign numbers
// from it checks them where it uses them.
#pragma once

#include "proto/snapshot.pb.h"

namespace godwit {

enum class SnapshotPart {
  kOutline,  // what /proc tells about a running process: parts may be missing
  kWhole,    // everything that a skeleton is made from
};

// Throws Error (code EPROTO) naming the part, the element and what is wrong with it.
void check_snapshot(const proto::Snapshot& snapshot, SnapshotPart part);
// The same of the threads that a Brace has, with the registers of each.
void check_threads(const google::protobuf::RepeatedPtrField<proto::Thread>& threads);

}  // namespace godwit
