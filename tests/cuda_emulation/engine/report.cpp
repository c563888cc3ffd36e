// Where in the source something happened, from debug information; only on the way to an error.
#include <c10/util/Type.h>
#include <dlfcn.h>
#include <execinfo.h>

#include <array>
#include <cstdio>
#include <sstream>

#include "engine/engine.h"

namespace emulation {
namespace {

// What addr2line says of addresses in one library: for each, function, then file:line, of each
// function inlined into the next.
std::vector<std::vector<std::string>> resolve(const std::vector<const void*>& addresses) {
  Dl_info info;
  if (addresses.empty() || dladdr(addresses[0], &info) == 0) return {};
  std::ostringstream command;
  command << "addr2line -a -C -f -i -e '" << info.dli_fname << "'" << std::hex;
  for (const void* const address : addresses) {
    command << " 0x"
            << reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  }
  command << " 2>/dev/null";
  std::vector<std::vector<std::string>> result;
  if (FILE* const output = popen(command.str().c_str(), "r")) {
    std::array<char, 4096> buffer;
    while (std::fgets(buffer.data(), buffer.size(), output) != nullptr) {
      std::string line(buffer.data());
      line.erase(line.find_last_not_of('\n') + 1);
      if (line.starts_with("0x")) {
        result.emplace_back();
      } else if (!result.empty()) {
        result.back().push_back(line);
      }
    }
    pclose(output);
  }
  return result;
}

// Not of the functions that make an access for kernels.
bool is_kernel_code(const std::string& place) {
  const bool kernels = place.find("/csrc/cuda/") != std::string::npos ||
                       place.find("planted.cu") != std::string::npos;
  return kernels && place.find("/memory.cuh") == std::string::npos &&
         place.find("/launch.h") == std::string::npos;
}

}  // namespace

std::string call_site() {
  std::array<void*, 64> frames;
  const int count = backtrace(frames.data(), frames.size());
  Dl_info ours, info;
  dladdr(reinterpret_cast<const void*>(&call_site), &ours);
  std::vector<const void*> addresses;
  for (int i = 0; i < count; ++i) {
    if (dladdr(frames[i], &info) == 0 || info.dli_fbase != ours.dli_fbase) continue;
    // Frames say where a call returns to, one beyond it.
    addresses.push_back(static_cast<const char*>(frames[i]) - 1);
  }
  for (const auto& lines : resolve(addresses)) {
    for (size_t line = 1; line < lines.size(); line += 2) {
      if (!is_kernel_code(lines[line])) continue;
      std::string place = lines[line].substr(lines[line].find_last_of('/') + 1);
      return "at " + place.substr(0, place.find(' '));  // without a discriminator
    }
  }
  return "at an unknown line";
}

std::string name_of(const void* function) {
  static std::map<const void*, std::string> names;
  std::string& name = names[function];
  if (!name.empty()) return name;
  const auto resolved = resolve({function});
  // The function itself comes last, after what is inlined into it.
  const bool known = !resolved.empty() && resolved[0].size() >= 2;
  name = known ? resolved[0][resolved[0].size() - 2] : "a kernel";
  // Without its parameters, whose parentheses may hold others.
  int depth = 0;
  for (size_t i = name.size(); i-- > 1 && name.back() == ')';) {
    depth += name[i] == ')' ? 1 : name[i] == '(' ? -1 : 0;
    if (depth == 0) name.resize(i);
  }
  return name;
}

}  // namespace emulation
