#include "source-agent/recorder.h"

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

class RecorderTest : public ImageCase {
 protected:
  template <typename Body>
  void say(Body* (proto::Envelope::*field)(), const Body& body) {
    proto::Envelope envelope;
    *(envelope.*field)() = body;
    recorder_.send(envelope, 0);
  }
  proto::Envelope::BodyCase answer() {
    const auto envelope = recorder_.try_receive(0);
    return envelope ? envelope->body_case() : proto::Envelope::BODY_NOT_SET;
  }
  static proto::Final final_description() {
    proto::Final final;
    proto::Process& process = *final.mutable_snapshot()->add_processes();
    process.mutable_identity()->set_pid(77);
    process.mutable_mappings()->add_areas()->set_start(kPageSize);
    process.add_threads()->set_tid(77);
    process.mutable_threads(0)->set_as_before(true);
    proto::OpenFile& file = *process.mutable_fd_table()->add_files();
    file.set_id(5);
    file.set_in_streams(true);
    return final;
  }
  void describe_earlier() {
    proto::Brace brace;
    brace.add_threads()->set_tid(77);
    brace.mutable_threads(0)->set_general_registers("registers");
    say(&proto::Envelope::mutable_brace, brace);
    EXPECT_EQ(answer(), proto::Envelope::kBraced);
    proto::Streams streams;
    streams.add_files()->set_id(5);
    streams.mutable_files(0)->mutable_tcp_socket()->set_backlog(9);
    say(&proto::Envelope::mutable_streams, streams);
  }
  void write_pages() {
    WriteRing ring;
    PagesWriter writer(target_.pages_fd(), kFirstId, Codec::kNone, ring, nullptr);
    const PagesWritten written = writer.finish(target_.index_fd());
    recorder_.note_pages(written.data_pages, written.base_pages);
  }

  ImageTarget target_{path("one"), kFirstId};
  Recorder recorder_{target_, {}};
};

TEST_F(RecorderTest, AnswersAsADestinationWould) {
  say(&proto::Envelope::mutable_hello, proto::Hello{});
  EXPECT_EQ(answer(), proto::Envelope::kHelloAnswer);
  say(&proto::Envelope::mutable_preflight_request, proto::PreflightRequest{});
  EXPECT_EQ(answer(), proto::Envelope::kPreflightAnswer);
  say(&proto::Envelope::mutable_describe, proto::Describe{});
  EXPECT_EQ(answer(), proto::Envelope::kClockProbe);
  EXPECT_EQ(answer(), proto::Envelope::kReconciled);
  EXPECT_FALSE(recorder_.pending());
  EXPECT_EQ(answer(), proto::Envelope::BODY_NOT_SET);
}

TEST_F(RecorderTest, PutsOneDescriptionTogetherAndCommitsIt) {
  describe_earlier();
  say(&proto::Envelope::mutable_final, final_description());
  EXPECT_EQ(answer(), proto::Envelope::kPrepared);
  EXPECT_FALSE(std::filesystem::exists(path("one")));
  write_pages();
  say(&proto::Envelope::mutable_commit, proto::Commit{});
  EXPECT_EQ(answer(), proto::Envelope::kCommitted);
  const Image image = Image::open(path("one"));
  EXPECT_EQ(image.manifest().pid(), 77);
  const proto::ImageState state = image.read_state();
  const proto::Process& process = state.snapshot().processes(0);
  EXPECT_EQ(process.threads(0).general_registers(), "registers");
  EXPECT_FALSE(process.threads(0).as_before());
  EXPECT_EQ(process.fd_table().files(0).tcp_socket().backlog(), 9);
  EXPECT_EQ(what_is_wrong("one"), "");
}

TEST_F(RecorderTest, TakesNothingThatIsNotWhole) {
  EXPECT_THROW(say(&proto::Envelope::mutable_final, final_description()), Error);
  describe_earlier();
  proto::Final changes = final_description();
  changes.mutable_snapshot()->mutable_processes(0)->mutable_fd_table()->set_changes_only(true);
  EXPECT_THROW(say(&proto::Envelope::mutable_final, changes), Error);
  say(&proto::Envelope::mutable_final, final_description());
  EXPECT_THROW(say(&proto::Envelope::mutable_commit, proto::Commit{}), Error);  // pages
  EXPECT_FALSE(std::filesystem::exists(path("one")));
  EXPECT_THROW(say(&proto::Envelope::mutable_clock_probe, proto::ClockProbe{}), Error);
}

}  // namespace
}  // namespace godwit
