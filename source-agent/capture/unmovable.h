// What a description does with what can't be moved.
#pragma once

namespace godwit {

enum class Unmovable {
  kRefuse,    // throws Refused
  kLeaveOut,  // for a verdict on everything else, when that has been told already
};

}  // namespace godwit
