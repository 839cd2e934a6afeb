#include "common/wire/fault_request.h"

#include <gtest/gtest.h>

#include "common/base/error.h"

namespace godwit {
namespace {

TEST(FaultRequest, SurvivesTheWire) {
  const FaultRequest request{7, 0x7fff'1234'5000};
  EXPECT_EQ(decode_fault_request(encode_fault_request(request)), request);
}

TEST(FaultRequest, AnythingElseIsRefused) {
  auto bytes = encode_fault_request({0, 0x5000});
  bytes[0] = std::byte{'X'};
  EXPECT_THROW(decode_fault_request(bytes), Error);
  bytes = encode_fault_request({0, 0x5000});
  bytes[8] = std::byte{1};
  EXPECT_THROW(decode_fault_request(bytes), Error);
}

}  // namespace
}  // namespace godwit
