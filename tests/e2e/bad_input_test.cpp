// Whatever is wrong with settings, text or directories: the documented exit code, one line that
// says what and what to do, nothing on standard output, and every file as it was.
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/io/file.h"
#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;

class BadInput : public testing::Test {
 protected:
  /// Runs the program and expects a refusal that leaves every file as it was.
  void refused(const Words& words,
               int code,
               std::initializer_list<std::string_view> says,
               CommandOptions options = {}) {
    const auto before = runs_.contents();
    expect_refused(run_command(words, std::move(options)), code, says);
    EXPECT_EQ(runs_.contents(), before);
  }
  void train_refused(const Words& more, int code, std::initializer_list<std::string_view> says) {
    refused(runs_.train("run", more), code, says);
    EXPECT_FALSE(fs::exists(runs_ / "run"));
  }
  /// One setting in a file, wrong.
  void file_refused(std::string_view toml, std::initializer_list<std::string_view> says) {
    const fs::path file = runs_.file("run.toml", toml);
    train_refused({"-c", file}, 2, says);
  }

  TinyRuns runs_;
};

TEST_F(BadInput, UnknownKey) {
  train_refused({"--trian.steps=4"}, 2, {"--trian.steps", "train.steps"});
  train_refused({"--train.lr=1"}, 2, {"train.schedule.lr"});
  file_refused("[train]\nstep = 4\n", {"run.toml:2", "train.step", "train.steps"});
  refused(runs_.train("run"),
          2,
          {"STRATA_TRAIN__STEPZ", "train.steps"},
          {.environment = {{"STRATA_TRAIN__STEPZ", "4"}}});
  train_refused({"--optim.beta9=0.5"}, 2, {"optim.beta9", "optim.beta1"});
}

TEST_F(BadInput, WrongType) {
  train_refused({"--train.steps=many"}, 2, {"train.steps", "integer", "'many'"});
  train_refused({"--train.steps"}, 2, {"--train.steps", "value"});
  train_refused({"--train.dtype=f16"}, 2, {"train.dtype", "f32, bf16", "'f16'"});
  train_refused({"--memory.device=lots"}, 2, {"memory.device", "512MiB", "'lots'"});
  file_refused("train.seed = 'seven'\n", {"run.toml:1", "train.seed", "integer", "seven"});
  file_refused("train = 3\n", {"run.toml:1", "train"});
  file_refused("this is no TOML\n", {"run.toml:1"});
}

TEST_F(BadInput, OutOfRange) {
  train_refused({"--train.steps=0"}, 2, {"train.steps", "at least 1", "'0'"});
  train_refused({"--train.seed=-1"}, 2, {"train.seed", "at least 0"});
  train_refused({"--model.dropout=1"}, 2, {"model.dropout", "0.99"});
  train_refused({"--train.seq_len=1M"}, 2, {"train.seq_len", "positions"});
  train_refused({"--train.schedule.lr=nan"}, 2, {"train.schedule.lr", "'nan'"});
  file_refused("checkpoint.keep_last = 0\n", {"run.toml:1", "checkpoint.keep_last", "at least 1"});
}

TEST_F(BadInput, DuplicateKey) {
  Words words = runs_.train("run");
  words.push_back("--train.steps=7");
  refused(words, 2, {"train.steps", "once"});
  file_refused("train.seed = 1\ntrain.seed = 2\n", {"run.toml:2", "seed"});
}

TEST_F(BadInput, SizesThatDoNotDivide) {
  train_refused({"--train.batch_tokens=65"}, 2, {"train.batch_tokens", "multiple", "65", "80"});
  train_refused({"--train.micro_batch=3"}, 2, {"train.micro_batch", "4 sequences", "3"});
  train_refused({"--model.H=3"}, 2, {"H"});
}

TEST_F(BadInput, UnknownCommandsOptionsAndNames) {
  refused({"trian"}, 2, {"'trian'", "'train'"});
  refused({"generate", runs_ / "x", "--promt", "a"}, 2, {"--promt", "--prompt"});
  refused({"eval", runs_ / "x", "--data"}, 2, {"--data", "value"});
  refused({"eval", runs_ / "x"}, 2, {"--data"});
  refused({"inspect", "dif"}, 2, {"'dif'", "diff"});
  refused({"import", "onnx", "a", "--tokenizer", "b", "-o", runs_ / "x"}, 2, {"llama2c"});
  train_refused({"extra"}, 2, {"'extra'", "--run.dir"});
  train_refused({"--model.preset=tiny-gtp2"}, 2, {"'tiny-gtp2'", "'tiny-gpt2'"});
  train_refused({"--optim.method=adamv"}, 2, {"'adamv'", "'adamw'"});
}

TEST_F(BadInput, FilesThatAreNotThere) {
  const std::string no = runs_ / "absent";
  train_refused({"--data.train=" + no}, 4, {no, "does not exist", "name a text"});
  train_refused({"--data.train=" + no, "--data.tokenizer=chars"}, 4, {no, "does not exist"});
  train_refused({"--data.valid=" + no}, 4, {no, "does not exist"});
  train_refused({"--data.tokenizer=" + no}, 4, {no, "strata_tokenizer.json"});
  train_refused({"--data.train=" + runs_.dir().path().string()}, 4, {"is a directory"});
  train_refused({"-c", no}, 2, {no, "TOML"});
  train_refused({"-c", runs_.dir().path()}, 2, {"TOML"});
  Words without = runs_.train("run");
  std::erase_if(without, [](const std::string& word) { return word.starts_with("--data.train"); });
  refused(without, 2, {"--data.train=FILE"});
}

TEST_F(BadInput, TextThatCannotBeTrainedOn) {
  const auto text = [&](std::string_view bytes) {
    return Words{"--data.train=" + runs_.file("bad", bytes).string()};
  };
  train_refused(text(""), 4, {"bad", "is empty"});
  train_refused(text("abc\xff"
                     "def"),
                4,
                {"bad", "UTF-8", "0xFF", "offset 3", "convert"});
  train_refused(text("caf\xc3"), 4, {"UTF-8", "offset 3"});
  train_refused(text("0123456789abcdef"), 4, {"17", "16", "seq_len"});
}

TEST_F(BadInput, DirectoriesThatHoldNoModel) {
  const std::string no = runs_ / "absent", empty = runs_ / "empty", text = runs_ / "text";
  fs::create_directory(empty);
  for (const std::string& directory : {no, empty, text}) {
    refused({"eval", directory, "--data", text}, 5, {directory, "give a"});
    refused({"generate", directory, "--prompt", "a"}, 5, {directory, "give a"});
    refused({"inspect", "show", directory}, 5, {directory, "give a"});
    refused({"inspect", "diff", directory, empty}, 5, {"give a"});
    refused({"resume", directory}, 5, {directory, "give a"});
    train_refused({"--model.preset=", "--model.init_from=" + directory}, 5, {directory, "give a"});
  }
  const std::string run = runs_.finished("finished");
  refused({"inspect", "diff", run, empty}, 5, {empty});
  const fs::path bare = runs_ / "bare";
  fs::create_directory(bare);
  fs::copy(runs_ / "finished/ckpt/s000000000006-i0001/config.json", bare);
  refused({"eval", bare, "--data", text}, 5, {"bare", "model.safetensors"});
}

TEST_F(BadInput, RunDirectoriesThatCannotBeUsed) {
  runs_.finished("run");
  refused(runs_.train("run"), 2, {"run", "--resume auto", "--run.dir"});
  refused(runs_.train("run", {"--resume=never"}), 2, {"--resume auto", "--run.dir"});
  refused(runs_.train("text"), 2, {"text", "--run.dir"});
  refused(runs_.train("text/below"), 2, {"below", "--run.dir"});
  refused(runs_.train("new", {"--resume=" + (runs_ / "absent").string()}), 5, {"absent", "auto"});
  refused(runs_.train("new", {"--resume=" + (runs_ / "text").string()}), 5, {"text", "auto"});
}

TEST_F(BadInput, ARunDirectoryInUse) {
  const fs::path run = runs_.killed("run");
  const io::FileLock lock(run / "lock");
  const std::string pid = "process " + std::to_string(getpid());
  refused(runs_.train("run"), 2, {"lock", pid, "wait"});
  refused(runs_.train("run", {"--resume=auto"}), 2, {"lock", pid, "wait"});
  refused({"resume", run}, 2, {"lock", pid, "wait"});
}

TEST_F(BadInput, TooLittleMemoryIsRefusedBeforeAnythingIsMade) {
  train_refused({"--memory.device=100KiB"}, 3, {"device", "100.0 KiB", "memory.device"});
  Words plan = runs_.train("run", {"--memory.device=100KiB"});
  plan.front() = "plan";
  EXPECT_EQ(run_command(plan).exit_code, 3);
  runs_.killed("run");
  refused(runs_.train("run", {"--resume=auto", "--memory.device=100KiB"}), 3, {"memory.device"});
}

}  // namespace
}  // namespace strata::tests
