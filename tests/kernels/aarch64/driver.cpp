// Runs the C interface of libx2sam_cpu on cases from standard input, one after the other, until it ends.
//
// A case: the function's name, threads, the number of buffers and of words; then each buffer's size in bytes; then each
// word of the function's struct as "p BUFFER OFFSET" (a pointer), "n" (null) or "i NUMBER"; one newline; the buffers.
// The answer: what the function returned as a line, and all buffers as they are afterwards.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

extern "C" {
const char* x2sam_isa();
int x2sam_attention(const void*, size_t);
int x2sam_deformable(const void*, size_t);
int x2sam_deformable_grad(const void*, size_t);
int x2sam_mask_fusion(const void*, size_t);
int x2sam_attention_mask(const void*, size_t);
}

namespace {

using Function = int (*)(const void*, size_t);
const std::map<std::string, Function> kFunctions = {
    {"x2sam_attention", x2sam_attention},
    {"x2sam_deformable", x2sam_deformable},
    {"x2sam_deformable_grad", x2sam_deformable_grad},
    {"x2sam_mask_fusion", x2sam_mask_fusion},
    {"x2sam_attention_mask", x2sam_attention_mask},
};

// Each buffer ends where its memory ends, so that a checker of memory sees what is read behind it.
struct Case {
  Function function;
  size_t threads;
  std::vector<std::vector<char>> buffers;
  std::vector<int64_t> words;
};

int64_t read_word(std::istream& in, std::vector<std::vector<char>>& buffers) {
  char kind;
  in >> kind;
  if (kind == 'n') return 0;
  if (kind == 'i') {
    int64_t number;
    in >> number;
    return number;
  }
  size_t buffer, offset;
  in >> buffer >> offset;
  return reinterpret_cast<int64_t>(buffers.at(buffer).data() + offset);
}

bool read_case(std::istream& in, Case& one) {
  std::string name;
  size_t buffers, words;
  if (!(in >> name >> one.threads >> buffers >> words)) return false;
  one.function = kFunctions.at(name);
  one.buffers.resize(buffers);
  for (auto& buffer : one.buffers) {
    size_t size;
    in >> size;
    buffer.resize(size);
  }
  one.words.clear();
  for (size_t i = 0; i < words; ++i) one.words.push_back(read_word(in, one.buffers));
  in.ignore();
  for (auto& buffer : one.buffers) in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
  return static_cast<bool>(in);
}

void write_answer(std::ostream& out, int returned, const Case& one) {
  out << returned << '\n';
  for (const auto& buffer : one.buffers) out.write(buffer.data(), static_cast<std::streamsize>(buffer.size()));
  out.flush();
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::cout << x2sam_isa() << std::endl;
  Case one;
  while (read_case(std::cin, one)) write_answer(std::cout, one.function(one.words.data(), one.threads), one);
}
