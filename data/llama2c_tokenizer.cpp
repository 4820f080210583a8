// The tokenizer of llama2.c (Karpathy, run.c): start from a space and the text's characters, bytes
// where the vocabulary lacks one, then join the adjacent pair whose union has the best score, the
// leftmost of equals, until none is left.
#include <cmath>
#include <cstring>
#include <optional>
#include <queue>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "data/tokenizer_file.h"
#include "data/utf8.h"

namespace strata::data {
namespace {

constexpr std::int32_t kBos = 1, kEos = 2, kFirstByte = 3;
constexpr float kNoMerge = -1e10f;  // run.c joins only above this score

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::int64_t max_token_bytes = 0;  // of the file's header; kept so that nothing is lost
};

/// The byte a token like <0x0A> stands for.
std::optional<char> byte_of(std::string_view token) {
  const auto digit = [](char c) {
    const std::size_t at = std::string_view("0123456789ABCDEF").find(c);
    return at == std::string_view::npos ? -1 : static_cast<int>(at);
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' || digit(token[3]) < 0 ||
      digit(token[4]) < 0) {
    return std::nullopt;
  }
  return static_cast<char>(digit(token[3]) * 16 + digit(token[4]));
}

/// Symbols of a text as a linked list, and the joins still possible, best first.
class Merger {
 public:
  Merger(const Vocabulary& vocabulary,
         const std::unordered_map<std::string, std::int32_t>& ids,
         std::vector<std::int32_t> symbols)
      : vocabulary_(vocabulary), ids_(ids), symbols_(std::move(symbols)) {}

  std::vector<std::int32_t> run() {
    const auto n = static_cast<std::int64_t>(symbols_.size());
    next_.resize(symbols_.size());
    previous_.resize(symbols_.size());
    for (std::int64_t i = 0; i < n; ++i) {
      next_[at(i)] = i + 1 < n ? i + 1 : -1;
      previous_[at(i)] = i - 1;
    }
    for (std::int64_t i = 0; i + 1 < n; ++i) {
      offer(i);
    }
    while (!joins_.empty()) {
      const Join join = joins_.top();
      joins_.pop();
      if (still_stands(join)) {
        apply(join);
      }
    }
    std::vector<std::int32_t> ids;
    for (std::int64_t i = n == 0 ? -1 : 0; i >= 0; i = next_[at(i)]) {
      ids.push_back(symbols_[at(i)]);
    }
    return ids;
  }

 private:
  struct Join {
    float score;
    std::int64_t left;
    std::int32_t left_id, right_id, id;
    bool operator<(const Join& o) const {
      return score != o.score ? score < o.score : left > o.left;
    }
  };
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  void offer(std::int64_t left) {
    const std::int64_t right = left < 0 ? -1 : next_[at(left)];
    if (right < 0) {
      return;
    }
    const std::int32_t a = symbols_[at(left)], b = symbols_[at(right)];
    const std::int32_t id = union_of(a, b);
    if (id >= 0 && vocabulary_.scores[at(id)] > kNoMerge) {
      joins_.push({vocabulary_.scores[at(id)], left, a, b, id});
    }
  }

  std::int32_t union_of(std::int32_t a, std::int32_t b) {
    const std::uint64_t key = static_cast<std::uint64_t>(a) << 32 | static_cast<std::uint32_t>(b);
    const auto [known, fresh] = unions_.try_emplace(key, -1);
    if (fresh) {
      const auto found = ids_.find(vocabulary_.tokens[at(a)] + vocabulary_.tokens[at(b)]);
      known->second = found == ids_.end() ? -1 : found->second;
    }
    return known->second;
  }

  /// A swallowed symbol is marked -1, so an entry whose pair has changed never matches.
  bool still_stands(const Join& join) const {
    const std::int64_t right = next_[at(join.left)];
    return symbols_[at(join.left)] == join.left_id && right >= 0 &&
           symbols_[at(right)] == join.right_id;
  }

  void apply(const Join& join) {
    const std::int64_t right = next_[at(join.left)], after = next_[at(right)];
    symbols_[at(join.left)] = join.id;
    symbols_[at(right)] = -1;
    next_[at(join.left)] = after;
    if (after >= 0) {
      previous_[at(after)] = join.left;
    }
    offer(previous_[at(join.left)]);
    offer(join.left);
  }

  const Vocabulary& vocabulary_;
  const std::unordered_map<std::string, std::int32_t>& ids_;
  std::vector<std::int32_t> symbols_;
  std::vector<std::int64_t> next_, previous_;
  std::priority_queue<Join> joins_;
  std::unordered_map<std::uint64_t, std::int32_t> unions_;
};

class Llama2cTokenizer final : public Tokenizer {
 public:
  /// `where` names the source in errors.
  Llama2cTokenizer(Vocabulary vocabulary, std::string_view where)
      : vocabulary_(std::move(vocabulary)) {
    const auto fail = [&](const std::string& what) {
      throw Error(
          Errc::data,
          fmt::format(
              "tokenizer: {}: {}; name the tokenizer file of a llama2.c model", where, what));
    };
    if (vocabulary_.tokens.size() != vocabulary_.scores.size() ||
        vocabulary_.tokens.size() < kFirstByte + 256) {
      fail(
          fmt::format("a llama2.c vocabulary has at least {} tokens and a score for each, got {} "
                      "and {}",
                      kFirstByte + 256,
                      vocabulary_.tokens.size(),
                      vocabulary_.scores.size()));
    }
    for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
      if (first_invalid_utf8(vocabulary_.tokens[i]) || !std::isfinite(vocabulary_.scores[i])) {
        fail(fmt::format("token {} is no UTF-8 or its score is not finite", i));
      }
      ids_.try_emplace(vocabulary_.tokens[i], static_cast<std::int32_t>(i));
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (byte_of(vocabulary_.tokens[kFirstByte + byte]) != static_cast<char>(byte)) {
        fail(fmt::format("token {} must be <0x{:02X}>", kFirstByte + byte, byte));
      }
    }
  }

  std::string kind() const override { return "llama2c"; }
  std::int64_t vocab_size() const override {
    return static_cast<std::int64_t>(vocabulary_.tokens.size());
  }
  std::int32_t bos() const override { return kBos; }
  // llama2.c trains on stories that start with BOS and end with nothing: a model says that its
  // story is over by starting the next.
  std::int32_t eos() const override { return kBos; }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    require_utf8(text, "llama2c tokenizer");
    if (text.empty()) {
      return {};
    }
    std::vector<std::int32_t> symbols;
    symbols.reserve(text.size() + 1);
    append(symbols, " ");
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t bytes = utf8_at(text, i).bytes;
      append(symbols, text.substr(i, bytes));
      i += bytes;
    }
    return Merger(vocabulary_, ids_, std::move(symbols)).run();
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    std::int32_t previous = -1;
    for (const std::int32_t id : ids) {
      require_id(id, vocab_size(), "llama2c");
      const std::string_view token = vocabulary_.tokens[static_cast<std::size_t>(id)];
      if (id == kBos || id == kEos) {
        // Marks, not text.
      } else if (const auto byte = byte_of(token)) {
        text.push_back(*byte);
      } else {
        text += previous == kBos && token.starts_with(' ') ? token.substr(1) : token;
      }
      previous = id;
    }
    return text;
  }

  std::vector<File> files() const override {
    return tokenizer_file({{"kind", "llama2c"},
                           {"max_token_bytes", vocabulary_.max_token_bytes},
                           {"tokens", vocabulary_.tokens},
                           {"scores", vocabulary_.scores}});
  }

 private:
  void append(std::vector<std::int32_t>& symbols, std::string_view character) const {
    const auto found = ids_.find(std::string(character));
    if (found != ids_.end()) {
      symbols.push_back(found->second);
      return;
    }
    for (const char byte : character) {
      symbols.push_back(static_cast<unsigned char>(byte) + kFirstByte);
    }
  }

  Vocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

/// Cursor over the file: i32 longest token, then for each token f32 score, i32 bytes, the bytes.
class Reader {
 public:
  Reader(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}
  template <class T>
  T number() {
    T value{};
    const std::string_view from = take(sizeof(T));
    std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  std::string_view take(std::int64_t bytes) {
    if (bytes < 0 || bytes > static_cast<std::int64_t>(bytes_.size())) {
      throw Error(
          Errc::data,
          fmt::format("tokenizer: {} ends inside a token; it is damaged or has fewer tokens "
                      "than the model",
                      where_));
    }
    const std::string_view taken = bytes_.substr(0, static_cast<std::size_t>(bytes));
    bytes_.remove_prefix(taken.size());
    return taken;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  std::string_view bytes_;
  std::string where_;
};

}  // namespace

std::unique_ptr<Tokenizer> llama2c_tokenizer(const std::filesystem::path& file,
                                             std::int64_t vocab_size) {
  if (!is_regular_file(file)) {
    throw Error(
        Errc::data,
        fmt::format("tokenizer: {} is not a file; name the tokenizer file of a llama2.c model "
                    "(tok512.bin, tokenizer.bin)",
                    file.string()));
  }
  const std::string bytes = io::read_text(file);
  Reader reader(bytes, file.string());
  Vocabulary vocabulary;
  vocabulary.max_token_bytes = reader.number<std::int32_t>();
  for (std::int64_t i = 0; i < vocab_size; ++i) {
    vocabulary.scores.push_back(reader.number<float>());
    vocabulary.tokens.emplace_back(reader.take(reader.number<std::int32_t>()));
  }
  if (reader.left() != 0) {
    throw Error(Errc::data,
                fmt::format("tokenizer: {} has {} bytes after its {} tokens; it belongs to a model "
                            "with a larger vocabulary",
                            file.string(),
                            reader.left(),
                            vocab_size));
  }
  return std::make_unique<Llama2cTokenizer>(std::move(vocabulary), file.string());
}

std::unique_ptr<Tokenizer> llama2c_tokenizer(const nlohmann::json& content) {
  Vocabulary vocabulary;
  vocabulary.max_token_bytes = content.at("max_token_bytes").get<std::int64_t>();
  vocabulary.tokens = content.at("tokens").get<std::vector<std::string>>();
  vocabulary.scores = content.at("scores").get<std::vector<float>>();
  return std::make_unique<Llama2cTokenizer>(std::move(vocabulary), kTokenizerFile);
}

}  // namespace strata::data
