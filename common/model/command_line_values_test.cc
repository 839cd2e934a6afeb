#include "common/model/command_line_values.h"

#include <gtest/gtest.h>

#include "common/base/error.h"

namespace godwit {
namespace {

TEST(ParseEndpoint, TakesEveryKindOfAddress) {
  EXPECT_EQ(parse_host_port("10.0.0.2:7000"), (HostPort{"10.0.0.2", 7000}));
  EXPECT_EQ(parse_host_port("[fd00::2]:7000"), (HostPort{"fd00::2", 7000}));
  EXPECT_EQ(parse_host_port("[fe80::1%eth0]:7000"), (HostPort{"fe80::1%eth0", 7000}));
  EXPECT_EQ(parse_host_port("beta.example.org:1"), (HostPort{"beta.example.org", 1}));
  EXPECT_EQ(parse_host_port("0.0.0.0:0", true), (HostPort{"0.0.0.0", 0}));
  for (const char* text : {"10.0.0.2:7000", "[fd00::2]:7000", "beta:65535"}) {
    EXPECT_EQ(parse_host_port(text).text(), text);
  }
}

TEST(ParseEndpoint, RefusesEverythingElseQuotingIt) {
  for (const char* text : {"",
                           ":",
                           "10.0.0.2",
                           "10.0.0.2:",
                           ":7000",
                           "10.0.0.2:0",
                           "10.0.0.2:65536",
                           "10.0.0.2:70x",
                           "10.0.0.2:-1",
                           "10.0.0.300:7000",
                           "10.0.0:7000",
                           "fd00::2:7000",
                           "[fd00::2]",
                           "[fd00::2",
                           "[fd00::2]7000",
                           "[10.0.0.2]:7000",
                           "[]:7000",
                           "a b:7000",
                           "-a:7000",
                           "10.0.0.2: 7000"}) {
    try {
      const HostPort endpoint = parse_host_port(text);
      FAIL() << text << " was read as " << endpoint.text();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(fmt::format("'{}'", text)), std::string::npos);
    }
  }
}

TEST(ParseDuration, TakesUnitsAndFractions) {
  EXPECT_EQ(parse_duration_ns("10ms"), 10'000'000);
  EXPECT_EQ(parse_duration_ns("1.5ms"), 1'500'000);
  EXPECT_EQ(parse_duration_ns("500us"), 500'000);
  EXPECT_EQ(parse_duration_ns("1s"), 1'000'000'000);
  EXPECT_EQ(parse_duration_ns("7ns"), 7);
  EXPECT_EQ(parse_duration_ns("2m"), 120'000'000'000);
  EXPECT_EQ(parse_duration_ns("0"), 0);
}

TEST(ParseDuration, RefusesTheRest) {
  for (const char* text :
       {"", "10", "ms", "-1ms", "10 ms", "1h", "1.2.3s", "1e3s", "25000m", "."}) {
    EXPECT_THROW(parse_duration_ns(text), Error) << text;
  }
}

TEST(ParseBandwidth, TakesPowersOfThousandAndOf1024) {
  EXPECT_EQ(parse_bandwidth_bytes_per_s("0"), 0U);
  EXPECT_EQ(parse_bandwidth_bytes_per_s("12345"), 12345U);
  EXPECT_EQ(parse_bandwidth_bytes_per_s("100M"), 100'000'000U);
  EXPECT_EQ(parse_bandwidth_bytes_per_s("1.5G"), 1'500'000'000U);
  EXPECT_EQ(parse_bandwidth_bytes_per_s("64Mi"), 67'108'864U);
  EXPECT_EQ(parse_bandwidth_bytes_per_s("2k"), 2000U);
}

TEST(ParseBandwidth, RefusesTheRest) {
  for (const char* text : {"", "M", "-1", "10MB", "0.1", "1T", "9999999G", "1 G"}) {
    EXPECT_THROW(parse_bandwidth_bytes_per_s(text), Error) << text;
  }
}

TEST(ParsePid, TakesPositiveNumbersOnly) {
  EXPECT_EQ(parse_pid("1"), 1);
  EXPECT_EQ(parse_pid("4194304"), 4194304);
  for (const char* text : {"", "0", "-1", "12x", "4294967297", "redis", "1.0", " 1"}) {
    EXPECT_THROW(parse_pid(text), Error) << text;
  }
}

TEST(ParseCount, HoldsTheBounds) {
  EXPECT_EQ(parse_count("1", 1, 5, "--n"), 1);
  EXPECT_EQ(parse_count("-5", -5, 5, "--n"), -5);
  EXPECT_THROW(parse_count("6", 1, 5, "--n"), Error);
  EXPECT_THROW(parse_count("0", 1, 5, "--n"), Error);
  EXPECT_THROW(parse_count("x", 1, 5, "--n"), Error);
}

}  // namespace
}  // namespace godwit
