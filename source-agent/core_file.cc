#include "source-agent/core_file.h"

#include <elf.h>
#include <sys/procfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "arch/arch.h"
#include "common/base/error.h"
#include "common/base/scope_exit.h"

namespace godwit {
namespace {

constexpr std::size_t kNoteAlignment = 4;

struct Load {
  PageRange range;
  std::uint32_t flags = 0;
  bool stored = false;
  std::uint64_t offset = 0;  // in the core file, when stored
};

template <typename Record>
void append(std::string& to, const Record& record) {
  to.append(reinterpret_cast<const char*>(&record), sizeof(record));
}

void append_note(std::string& notes, int type, std::string_view content) {
  constexpr std::string_view kOwner("CORE\0", 5);
  constexpr std::string_view kLinux("LINUX\0", 6);
  const std::string_view owner = type == NT_X86_XSTATE ? kLinux : kOwner;
  append(notes, Elf64_Nhdr{static_cast<Elf64_Word>(owner.size()),
                           static_cast<Elf64_Word>(content.size()), static_cast<Elf64_Word>(type)});
  const auto pad = [&] {
    notes.append((kNoteAlignment - notes.size() % kNoteAlignment) % kNoteAlignment, '\0');
  };
  notes += owner;
  pad();
  notes += content;
  pad();
}

std::string bytes_of(const auto& record) {
  return {reinterpret_cast<const char*>(&record), sizeof(record)};
}

std::string status_of(const proto::Process& process, const proto::Thread& thread) {
  elf_prstatus status{};
  status.pr_pid = thread.tid();
  status.pr_pgrp = process.identity().group();
  status.pr_sid = process.identity().session();
  status.pr_sighold = thread.signal_mask();
  if (thread.general_registers().size() != sizeof(status.pr_reg)) {
    fail("thread {}: {} bytes of registers, {} expected: the image is of another processor",
         thread.tid(), thread.general_registers().size(), sizeof(status.pr_reg));
  }
  std::memcpy(&status.pr_reg, thread.general_registers().data(), sizeof(status.pr_reg));
  status.pr_fpvalid = 1;
  return bytes_of(status);
}

std::string info_of(const proto::Process& process) {
  elf_prpsinfo info{};
  info.pr_sname = 'R';
  info.pr_pid = process.identity().pid();
  info.pr_pgrp = process.identity().group();
  info.pr_sid = process.identity().session();
  const std::string& name = process.threads(0).comm();
  name.copy(info.pr_fname, sizeof(info.pr_fname) - 1);
  process.identity().executable().copy(info.pr_psargs, sizeof(info.pr_psargs) - 1);
  return bytes_of(info);
}

// Which file is mapped where.
std::string files_of(const proto::Mappings& mappings) {
  std::string table;
  std::string names;
  std::uint64_t count = 0;
  for (const proto::Mapping& area : mappings.areas()) {
    if (area.backing() != proto::BACKING_FILE) continue;
    ++count;
    append(table, std::array{area.start(), area.end(), area.offset() / kPageSize});
    names += mappings.files(static_cast<int>(area.file())).path() + '\0';
  }
  std::string content;
  append(content, std::array{count, kPageSize});
  return content + table + names;
}

std::string notes_of(const proto::Process& process) {
  std::string notes;
  for (const proto::Thread& thread : process.threads()) {
    append_note(notes, NT_PRSTATUS, status_of(process, thread));
    if (&thread == &process.threads(0)) {
      append_note(notes, NT_PRPSINFO, info_of(process));
      append_note(notes, NT_AUXV, process.mappings().marks().auxv());
      append_note(notes, NT_FILE, files_of(process.mappings()));
    }
    std::string vectors = thread.vector_registers();
    vectors.resize(thread.vector_bytes());
    if (arch::vector_note_type() != NT_PRFPREG && vectors.size() >= sizeof(elf_fpregset_t)) {
      append_note(notes, NT_PRFPREG, std::string_view(vectors).substr(0, sizeof(elf_fpregset_t)));
    }
    append_note(notes, arch::vector_note_type(), vectors);
  }
  return notes;
}

std::uint32_t flags_of(const proto::Mapping& area) {
  constexpr std::uint32_t kRead = 1;
  constexpr std::uint32_t kWrite = 2;
  constexpr std::uint32_t kExecute = 4;
  return ((area.protection() & kRead) != 0 ? PF_R : 0) |
         ((area.protection() & kWrite) != 0 ? PF_W : 0) |
         ((area.protection() & kExecute) != 0 ? PF_X : 0);
}

// Of a mapping of a file only what the image has is stored; in between the file is looked into.
void split_file_area(const Load& whole, const std::vector<StoredPages>& pages,
                     std::vector<Load>& loads) {
  Address at = whole.range.start;
  const auto gap_until = [&](Address end) {
    if (at < end) loads.push_back({{at, end}, whole.flags, false});
    at = std::max(at, end);
  };
  auto each = std::partition_point(pages.begin(), pages.end(), [&](const StoredPages& before) {
    return before.range.end <= whole.range.start;
  });
  for (; each != pages.end() && each->range.start < whole.range.end; ++each) {
    const PageRange part{std::max(each->range.start, whole.range.start),
                         std::min(each->range.end, whole.range.end)};
    gap_until(part.start);
    at = part.end;
    if (!loads.empty() && loads.back().stored && loads.back().range.end == part.start &&
        part.start != whole.range.start) {
      loads.back().range.end = part.end;
    } else {
      loads.push_back({part, whole.flags, true});
    }
  }
  gap_until(whole.range.end);
}

std::vector<Load> loads_of(const proto::Mappings& mappings, const std::vector<StoredPages>& pages) {
  std::vector<Load> loads;
  for (const proto::Mapping& area : mappings.areas()) {
    const Load whole{{area.start(), area.end()}, flags_of(area), true};
    switch (area.backing()) {
      case proto::BACKING_ANONYMOUS:
      case proto::BACKING_SHARED_ANONYMOUS:
        loads.push_back(whole);
        break;
      case proto::BACKING_FILE:
        split_file_area(whole, pages, loads);
        break;
      default:
        loads.push_back({whole.range, whole.flags, false});
    }
  }
  return loads;
}

// More segments than the header can count are counted in a section.
std::string headers_of(const std::vector<Load>& loads, std::size_t notes_bytes) {
  const std::size_t count = loads.size() + 1;
  const bool counted_apart = count >= PN_XNUM;
  const std::size_t sections_at = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr);
  Elf64_Ehdr elf{};
  std::memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_ident[EI_DATA] = ELFDATA2LSB;
  elf.e_ident[EI_VERSION] = EV_CURRENT;
  elf.e_type = ET_CORE;
  elf.e_machine = arch::name() == "x86_64" ? EM_X86_64 : EM_AARCH64;
  elf.e_version = EV_CURRENT;
  elf.e_phoff = sizeof(elf);
  elf.e_ehsize = sizeof(elf);
  elf.e_phentsize = sizeof(Elf64_Phdr);
  elf.e_phnum = static_cast<Elf64_Half>(counted_apart ? PN_XNUM : count);
  elf.e_shentsize = sizeof(Elf64_Shdr);
  elf.e_shnum = counted_apart ? 1 : 0;
  elf.e_shoff = counted_apart ? sections_at : 0;
  std::string headers;
  append(headers, elf);
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = sections_at + (counted_apart ? sizeof(Elf64_Shdr) : 0);
  note.p_filesz = notes_bytes;
  note.p_align = kNoteAlignment;
  append(headers, note);
  for (const Load& load : loads) {
    append(headers,
           Elf64_Phdr{PT_LOAD, load.flags, load.offset, load.range.start, 0,
                      load.stored ? load.range.bytes() : 0, load.range.bytes(), kPageSize});
  }
  if (counted_apart) {
    Elf64_Shdr counter{};
    counter.sh_info = static_cast<Elf64_Word>(count);
    append(headers, counter);
  }
  return headers;
}

void write_at(int fd, std::string_view bytes, std::uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) throw_system("write {}", path);
    bytes.remove_prefix(static_cast<std::size_t>(wrote));
    offset += static_cast<std::uint64_t>(wrote);
  }
}

void write_pages(int fd, ImagePages& image, const std::vector<Load>& loads,
                 const std::string& path) {
  for (const StoredPages& pages : image.pages_in_disk_order(0)) {
    if (pages.zero) continue;
    const auto* data = reinterpret_cast<const char*>(image.read(pages));
    auto load = std::partition_point(loads.begin(), loads.end(), [&](const Load& before) {
      return before.range.end <= pages.range.start;
    });
    for (; load != loads.end() && load->range.start < pages.range.end; ++load) {
      if (!load->stored) continue;
      const Address start = std::max(load->range.start, pages.range.start);
      const Address end = std::min(load->range.end, pages.range.end);
      write_at(fd, {data + (start - pages.range.start), end - start},
               load->offset + (start - load->range.start), path);
    }
  }
}

}  // namespace

void write_core_file(const Image& image, const std::string& path) {
  const proto::ImageState state = image.read_state();
  ImagePages pages(image.open_levels());
  if (state.snapshot().processes_size() != 1) {
    fail("{}: {} processes in its description", image.path(), state.snapshot().processes_size());
  }
  const proto::Process& process = state.snapshot().processes(0);
  if (process.threads().empty()) fail("{}: a process without threads", image.path());
  const std::string notes = notes_of(process);
  std::vector<Load> loads = loads_of(process.mappings(), pages.pages_of(0));
  std::uint64_t end = headers_of(loads, notes.size()).size() + notes.size();
  end = (end + kPageSize - 1) / kPageSize * kPageSize;
  for (Load& load : loads) {
    load.offset = end;
    if (load.stored) end += load.range.bytes();
  }
  const UniqueFd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ScopeExit remove([&] { ::unlink(path.c_str()); });
  write_at(file.get(), headers_of(loads, notes.size()) + notes, 0, path);
  write_pages(file.get(), pages, loads, path);
  if (::ftruncate(file.get(), static_cast<off_t>(end)) != 0) throw_system("write {}", path);
  remove.dismiss();
}

}  // namespace godwit
