#include "launch/config.h"

#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "launch/fields.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::expect_error;
using tests::TempDir;
using Names = std::vector<std::pair<std::string, std::string>>;

class ConfigTest : public ::testing::Test {
 protected:
  /// A configuration file, by name: relative, so that messages are what a user sees.
  std::filesystem::path file(std::string_view text) {
    std::ofstream(dir_ / "run.toml") << text;
    return dir_ / "run.toml";
  }
  Settings from_file(std::string_view text) { return Settings({.file = file(text)}); }
  static Settings from_line(std::vector<const char*> line) {
    return Settings({.arguments = read_arguments(line, {}).settings});
  }
  static Settings from_environment(Names environment) {
    return Settings({.environment = std::move(environment)});
  }
  std::string file_error(std::string_view text, std::initializer_list<std::string_view> words) {
    const std::string message = expect_error(Errc::config, words, [&] { from_file(text); });
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  static std::string line_error(std::vector<const char*> line,
                                std::initializer_list<std::string_view> words) {
    return expect_error(Errc::config, words, [&] { from_line(line); });
  }
  TempDir dir_;
};

TEST_F(ConfigTest, Defaults) {
  const RunConfig c = Settings(Sources{}).config();
  EXPECT_EQ(c.model.preset, "tiny-gpt2");
  EXPECT_FALSE(c.model.L || c.model.dropout || c.model.bias);
  EXPECT_EQ(c.data.tokenizer, "byte");
  EXPECT_TRUE(c.data.train.empty() && c.data.valid.empty());
  EXPECT_EQ(c.data.valid_fraction, 0);
  EXPECT_EQ(c.train.steps, 1000);
  EXPECT_EQ(c.train.batch_tokens, 4096);
  EXPECT_EQ(c.train.seed, 1u);
  EXPECT_EQ(c.train.schedule.kind, optim::Decay::cosine);
  EXPECT_EQ(c.train.schedule.lr, 3e-4);
  EXPECT_EQ(c.memory.device, MemorySettings::Device::automatic);
  EXPECT_EQ(c.resume, Resume::automatic);
  EXPECT_FALSE(c.trace_steps.contains(0) || c.trace_steps.contains(1));
}

TEST_F(ConfigTest, DefaultsAreCanonical) {
  for (const Field& field : fields()) {
    const auto text = canonical(field, {Raw::Kind::word, std::string(field.default_text), {}});
    // An empty default says "not given"; what may not be given empty has no such default.
    EXPECT_EQ(text, std::string(field.default_text)) << field.key;
    EXPECT_FALSE(field.help.empty()) << field.key;
  }
}

TEST_F(ConfigTest, EveryFieldReachesItsMember) {
  const Settings s = from_file(R"(
resume = "never"
threads = 3
model = { preset = "p", dropout = 0.5, bias = false, L = 2, C = "1k", H = 4, K = 5, F = 6, max_T = 512 }
data = { train = ["a.txt", "b.tok"], valid = 0.25, tokenizer = "chars", sampling = "window" }
run.dir = "out"
trace.steps = "3:8"
io.engine = "threads"
memory.device = "1.5GiB"
checkpoint = { every = 7, keep_last = 8 }
numerics = { update = "hybrid", speculated = 2 }
[train]
steps = 9
seq_len = 128
batch_tokens = "512k"
micro_batch = 10
seed = 11
dtype = "bf16"
order = "layer-major"
on_nonfinite = "stop"
eval_every = 12
eval_tokens = 13
[train.schedule]
kind = "wsd"
lr = 1e-3
final_fraction = 0.2
warmup_steps = 14
decay_steps = 15
cooldown_fraction = 0.3
[optim]
method = "lion"
clip = 0.5
beta1 = 0.90
codec.name = "bf16"
)");
  const RunConfig& c = s.config();
  EXPECT_EQ(c.resume, Resume::never);
  EXPECT_EQ(c.threads, 3);
  EXPECT_EQ(c.model.preset, "p");
  EXPECT_EQ(c.model.dropout, 0.5);
  EXPECT_EQ(c.model.bias, false);
  EXPECT_EQ(c.model.L, 2);
  EXPECT_EQ(c.model.C, 1024);
  EXPECT_EQ(c.model.H, 4);
  EXPECT_EQ(c.model.K, 5);
  EXPECT_EQ(c.model.F, 6);
  EXPECT_EQ(c.model.max_T, 512);
  EXPECT_THAT(c.data.train, ElementsAre("a.txt", "b.tok"));
  EXPECT_EQ(c.data.valid_fraction, 0.25);
  EXPECT_EQ(c.data.tokenizer, "chars");
  EXPECT_EQ(c.run_dir, "out");
  EXPECT_EQ(c.trace_steps.first, 3);
  EXPECT_EQ(c.trace_steps.last, 8);
  EXPECT_EQ(c.io.engine, io::QueueConfig::Engine::threads);
  EXPECT_EQ(c.memory.device, MemorySettings::Device::bytes);
  EXPECT_EQ(c.memory.device_bytes, std::int64_t{3} << 29);
  EXPECT_EQ(c.checkpoint.every, 7);
  EXPECT_EQ(c.checkpoint.keep_last, 8);
  EXPECT_EQ(c.update, UpdateMode::hybrid);
  EXPECT_EQ(c.speculated, 2);
  EXPECT_EQ(c.train.steps, 9);
  EXPECT_EQ(c.train.seq_len, 128);
  EXPECT_EQ(c.train.batch_tokens, 524288);
  EXPECT_EQ(c.train.micro_batch, 10);
  EXPECT_EQ(c.train.seed, 11u);
  EXPECT_EQ(c.train.dtype, DType::bf16);
  EXPECT_EQ(c.train.order, Order::layer_major);
  EXPECT_EQ(c.train.on_nonfinite, OnNonfinite::stop);
  EXPECT_EQ(c.train.eval_every, 12);
  EXPECT_EQ(c.train.eval_tokens, 13);
  EXPECT_EQ(c.train.schedule.kind, optim::Decay::wsd);
  EXPECT_EQ(c.train.schedule.lr, 1e-3);
  EXPECT_EQ(c.train.schedule.final_fraction, 0.2);
  EXPECT_EQ(c.train.schedule.warmup_steps, 14);
  EXPECT_EQ(c.train.schedule.decay_steps, 15);
  EXPECT_EQ(c.train.schedule.cooldown_fraction, 0.3);
  EXPECT_EQ(c.optim.method, "lion");
  EXPECT_EQ(c.optim.clip, 0.5);
  EXPECT_EQ(c.optim.settings, (Names{{"beta1", "0.9"}, {"codec.name", "bf16"}}));
  EXPECT_THAT(s.values().at("train.steps").origin, HasSubstr("run.toml:13"));
  EXPECT_EQ(s.values().at("numerics.grad_dtype").origin, "default");
}

TEST_F(ConfigTest, LaterSourcesWin) {
  Sources sources;
  const auto steps = [&] {
    const Settings s(sources);
    return std::pair(s.config().train.steps, s.values().at("train.steps").origin);
  };
  EXPECT_EQ(steps(), std::pair(std::int64_t{1000}, std::string("default")));
  sources.restored = {{"train.steps", "2"}, {"train.seed", "9"}};
  EXPECT_EQ(steps(), std::pair(std::int64_t{2}, std::string("checkpoint")));
  sources.file = file("[train]\nsteps = 3\n");
  EXPECT_EQ(steps(), std::pair(std::int64_t{3}, (dir_ / "run.toml").string() + ":2"));
  sources.environment = {{"STRATA_TRAIN__STEPS", "4"}};
  EXPECT_EQ(steps(), std::pair(std::int64_t{4}, std::string("STRATA_TRAIN__STEPS")));
  const std::vector<const char*> line = {"--train.steps=5"};
  sources.arguments = read_arguments(line, {}).settings;
  EXPECT_EQ(steps(), std::pair(std::int64_t{5}, std::string("command line")));
  EXPECT_EQ(Settings(sources).config().train.seed, 9u);
}

TEST_F(ConfigTest, EnvironmentNames) {
  const Settings s = from_environment({{"STRATA_TRAIN__SCHEDULE__LR", "1e-2"},
                                       {"STRATA_MODEL__MAX_T", "64"},
                                       {"STRATA_OPTIM__BETA1", "0.5"},
                                       {"STRATA_TEST_DATA", "/x"},
                                       {"STRATA_ISA", "avx2"},
                                       {"HOME", "/root"}});
  EXPECT_EQ(s.config().train.schedule.lr, 0.01);
  EXPECT_EQ(s.config().model.max_T, 64);
  EXPECT_EQ(s.config().optim.settings, (Names{{"beta1", "0.5"}}));
  expect_error(Errc::config, {"STRATA_TRAIN__STEP:", "no setting train.step;", "train.steps"}, [] {
    from_environment({{"STRATA_TRAIN__STEP", "4"}});
  });
  expect_error(Errc::config,
               {"STRATA_TRAIN__STEPS:", "train.steps needs an integer of at least 1", "'many'"},
               [] {
                 from_environment({{"STRATA_TRAIN__STEPS", "many"}});
               });
}

TEST_F(ConfigTest, CommandLineForms) {
  const std::vector<Option> options = {
      {"--prompt", "TEXT", ""}, {"--json", "", ""}, {"-n", "N", ""}};
  const std::vector<const char*> line = {"--train.steps",
                                         "7",
                                         "--json",
                                         "-c",
                                         "run.toml",
                                         "out",
                                         "--train.schedule.lr=1e-3",
                                         "--prompt",
                                         "-1 and so on",
                                         "-n=3",
                                         "--data.train=a=b.txt",
                                         "--resume",
                                         "never"};
  const Arguments a = read_arguments(line, options);
  EXPECT_EQ(a.file, "run.toml");
  EXPECT_THAT(a.positional, ElementsAre("out"));
  EXPECT_EQ(a.options,
            (std::map<std::string, std::string>{
                {"--json", ""}, {"--prompt", "-1 and so on"}, {"-n", "3"}}));
  EXPECT_FALSE(a.help);
  const Settings s({.arguments = a.settings});
  EXPECT_EQ(s.config().train.steps, 7);
  EXPECT_EQ(s.config().train.schedule.lr, 1e-3);
  EXPECT_EQ(s.config().resume, Resume::never);
  EXPECT_THAT(s.config().data.train, ElementsAre("a=b.txt"));
  const std::vector<const char*> help = {"-h"};
  EXPECT_TRUE(read_arguments(help, options).help);
  const std::vector<const char*> config = {"--config=x.toml"};
  EXPECT_EQ(read_arguments(config, options).file, "x.toml");
}

TEST_F(ConfigTest, CommandLineErrors) {
  const std::vector<Option> options = {{"--prompt", "TEXT", ""}, {"--json", "", ""}};
  const auto fails = [&](std::vector<const char*> line,
                         std::initializer_list<std::string_view> words) {
    expect_error(Errc::config, words, [&] { read_arguments(line, options); });
  };
  fails({"--train.step=3"}, {"there is no --train.step;", "--train.steps"});
  fails({"--promt", "x"}, {"there is no --promt;", "--prompt"});
  fails({"-x"}, {"there is no -x"});
  fails({"--train.steps"}, {"--train.steps needs a value"});
  fails({"--train.steps", "--json"}, {"--train.steps needs a value"});
  fails({"--prompt"}, {"--prompt needs a value"});
  fails({"--json=1"}, {"--json is a switch"});
  fails({"--json", "--json"}, {"--json is given twice"});
  fails({"-c", "a", "--config", "b"}, {"--config is given twice"});
  line_error({"--train.steps=1", "--train.steps=2"},
             {"command line: train.steps was already given"});
}

TEST_F(ConfigTest, UnknownKeysNameTheirPlaceAndTheNearest) {
  file_error("[train]\nsteps = 3\nstep = 4\n",
             {"run.toml:3: there is no setting train.step;", "nearest is train.steps"});
  file_error("[train]\nlr = 1e-3\n", {"run.toml:2", "nearest is train.schedule.lr"});
  file_error("[trian.schedule]\nkind = \"cosine\"\n",
             {"trian.schedule.kind", "nearest is train.schedule.kind"});
  file_error("\"a\\nb\" = 4\n", {"there is no setting a b;"});
  file_error("seed = 4\n", {"nearest is train.seed"});
  file_error("[optim]\n\"\" = 4\n", {"run.toml:2: there is no setting optim.;"});
}

TEST_F(ConfigTest, FilesMustBeToml) {
  file_error("[train\nsteps = 3\n", {"run.toml:1: "});
  file_error("[train]\nsteps = 3\nsteps = 4\n", {"run.toml:3: ", "steps"});
  file_error("train.steps = 3\n\"train.steps\" = 4\n",
             {"train.steps was already given", "run.toml:"});
  expect_error(
      Errc::config, {"none.toml is not a file"}, [&] { Settings({.file = dir_ / "none.toml"}); });
  expect_error(Errc::config, {"is not a file"}, [&] { Settings({.file = dir_.path()}); });
}

TEST_F(ConfigTest, WrongTypesAndRangesSayWhatIsNeeded) {
  struct Case {
    const char *text, *message;
  };
  for (const Case& c : std::vector<Case>{
           {"train.steps = \"3\"", "train.steps needs an integer of at least 1, got the text '3'"},
           {"train.steps = 3.0", "needs an integer of at least 1, got '3'"},
           {"train.steps = 0", "needs an integer of at least 1, got '0'"},
           {"train.steps = true", "got 'true'"},
           {"train.steps = [3]", "got a list with something other than texts"},
           {"train.steps = {a = 3}", "train.steps needs an integer of at least 1, got a table"},
           {"train.steps = 2024-01-01", "got a date or time"},
           {"train = 3", "there is no setting train;"},
           {"train.seed = -1", "train.seed needs an integer of at least 0, got '-1'"},
           {"train.batch_tokens = \"4x\"", "(k, M, G: powers of 1024), got the text '4x'"},
           {"train.batch_tokens = \"99999999999999G\"", "train.batch_tokens needs"},
           {"train.schedule.lr = \"fast\"", "train.schedule.lr needs a number of at least 0"},
           {"train.schedule.lr = inf", "train.schedule.lr needs a number"},
           {"train.schedule.lr = nan", "train.schedule.lr needs a number"},
           {"train.schedule.final_fraction = 1.5", "needs a number from 0 to 1, got '1.5'"},
           {"train.dtype = \"fp16\"", "train.dtype needs one of f32, bf16, got the text 'fp16'"},
           {"train.dtype = 32", "needs one of f32, bf16, got '32'"},
           {"numerics.deterministic = \"off\"",
            "numerics.deterministic needs one of run, elastic, got the text 'off'"},
           {"memory.device = \"2 gigs\"",
            "memory.device needs bytes, such as 512MiB or 2GiB, or auto, minimum"},
           {"memory.device = \"0.3B\"", "memory.device needs bytes"},
           {"memory.device = 0", "memory.device needs bytes"},
           {"memory.device = \"-1GiB\"", "memory.device needs bytes"},
           {"model.bias = 1", "model.bias needs true or false, or preset, got '1'"},
           {"model.L = \"many\"", "model.L needs an integer of at least 1, or preset"},
           {"run.dir = 3", "run.dir needs a text of one line, not empty, got '3'"},
           {"run.dir = \"\"", "run.dir needs a text of one line, not empty"},
           {"run.dir = \"a\\nb\"", "run.dir needs a text of one line"},
           {"data.train = [1, 2]", "data.train needs a list of texts, got a list with"},
           {"data.train = [\"\"]", "data.train needs a list of texts, got a list of 1"},
           {"data.valid = 1.0",
            "data.valid needs a list of files or a number from 0 to 0.99, got '1'"},
           {"optim.beta1 = [\"a\"]",
            "optim.beta1 needs a number, true, false or a text, got a list"}}) {
    SCOPED_TRACE(c.text);
    const std::string message = file_error(c.text, {c.message});
    EXPECT_THAT(message, HasSubstr("run.toml:1: "));
  }
}

TEST_F(ConfigTest, RecomputeHasOneTextForEqualChoices) {
  const auto text = [](const char* given) {
    return from_line({"--memory.recompute", given}).values().at("memory.recompute").text;
  };
  for (const char* same :
       {"auto", "none", "elementwise", "mlp", "projections", "block", "0-5:block,6:elementwise"}) {
    EXPECT_EQ(text(same), same);
  }
  EXPECT_EQ(text("6-6:elementwise,3-5:block,0-2:block"), "0-5:block,6:elementwise");
  EXPECT_EQ(text("007:none"), "7:none");
  using enum offload::Recompute;
  const auto choice = [](const char* given) {
    return choice_of(parse_recompute(given).value(), 4);
  };
  EXPECT_EQ(choice("block"), (offload::RecomputeChoice{block, block, block, block}));
  EXPECT_EQ(choice("1-2:elementwise,3:block"),
            (offload::RecomputeChoice{none, elementwise, elementwise, block}));
  EXPECT_EQ(to_string(parse_recompute(offload::to_string(choice("1:block"))).value()), "1:block");
  file_error("memory.recompute = 4",
             {"memory.recompute needs auto, none, elementwise, mlp, projections, block, or"});
}

TEST_F(ConfigTest, UnitsAndLists) {
  const auto bytes = [](const char* text) {
    return from_line({"--memory.device", text}).config().memory.device_bytes;
  };
  EXPECT_EQ(bytes("512MiB"), 512 << 20);
  EXPECT_EQ(bytes("0.5 GiB"), 512 << 20);
  EXPECT_EQ(bytes("3KB"), 3000);
  EXPECT_EQ(bytes("77"), 77);
  EXPECT_EQ(bytes("77B"), 77);
  EXPECT_EQ(from_line({"--memory.device=minimum"}).config().memory.device,
            MemorySettings::Device::minimum);
  EXPECT_EQ(from_line({"--train.batch_tokens=2M"}).config().train.batch_tokens, 2 << 20);
  const auto valid = [](const char* text) {
    return from_line({"--data.valid", text}).config().data;
  };
  EXPECT_EQ(valid("0.1").valid_fraction, 0.1);
  EXPECT_THAT(valid("a,b").valid, ElementsAre("a", "b"));
  EXPECT_EQ(valid("a,b").valid_fraction, 0);
  EXPECT_THAT(valid("[\"0.1\", \"a,b\"]").valid, ElementsAre("0.1", "a,b"));
  EXPECT_THAT(from_file("data.train = \"one.txt\"").config().data.train, ElementsAre("one.txt"));
  const Settings path = from_line({"--resume=run/step-3"});
  EXPECT_EQ(path.config().resume, Resume::path);
  EXPECT_EQ(path.config().resume_path, "run/step-3");
}

TEST_F(ConfigTest, StepsToTrace) {
  const auto steps = [](const char* text) {
    const Settings s = from_line({"--trace.steps", text});
    const StepRange range = s.config().trace_steps;
    return std::tuple(range.first, range.last, s.values().at("trace.steps").text);
  };
  EXPECT_EQ(steps("20:22"), std::tuple(20, 22, "20:22"));
  EXPECT_EQ(steps("7"), std::tuple(7, 7, "7"));
  EXPECT_EQ(steps("7:7"), std::tuple(7, 7, "7"));
  EXPECT_EQ(from_file("trace.steps = 7").config().trace_steps.last, 7);
  for (const char* wrong :
       {"20:", ":22", "a:b", "22:20", "0:3", "0", "2:3:4", "2-3", "2.5", "-1"}) {
    SCOPED_TRACE(wrong);
    const std::string argument = std::string("--trace.steps=") + wrong;
    line_error({argument.c_str()},
               {"command line: trace.steps needs a step, or FIRST:LAST with FIRST at most LAST, or "
                "none, got '" +
                std::string(wrong) + "'"});
  }
  const auto complete = [](const char* range) {
    from_line({"--train.steps=30", range}).complete(1024, {});
  };
  complete("--trace.steps=29:30");
  expect_error(Errc::config,
               {"command line: trace.steps = 30:31 goes beyond", "train.steps = 30", "1 to 30"},
               [&] { complete("--trace.steps=30:31"); });
}

TEST_F(ConfigTest, EqualValuesHaveEqualTexts) {
  const auto text = [](std::vector<const char*> line, const char* key) {
    return from_line(line).values().at(key).text;
  };
  EXPECT_EQ(text({"--train.schedule.lr=3e-3"}, "train.schedule.lr"),
            text({"--train.schedule.lr=0.0030"}, "train.schedule.lr"));
  EXPECT_EQ(text({"--train.batch_tokens=8k"}, "train.batch_tokens"), "8192");
  EXPECT_EQ(text({"--optim.eps=1e-8"}, "optim.eps"), text({"--optim.eps=0.00000001"}, "optim.eps"));
  EXPECT_EQ(text({"--optim.key=9007199254740993"}, "optim.key"), "9007199254740993");
  EXPECT_EQ(text({"--optim.clip=-0"}, "optim.clip"), "0");
  EXPECT_EQ(text({"--train.schedule.lr=0.1"}, "train.schedule.lr"), "0.1");
}

TEST_F(ConfigTest, APresetOrWeightsButNotBoth) {
  EXPECT_EQ(from_line({"--model.init_from=w"}).config().model.preset, "");
  line_error({"--model.init_from=w", "--model.preset=p"},
             {"model.preset = p and model.init_from = w", "exclude each other"});
  line_error({"--model.preset="}, {"model.preset is empty and model.init_from is not given"});
}

TEST_F(ConfigTest, CompleteDerivesTheStep) {
  Settings s(Sources{});
  s.complete(1024, Names{{"beta1", "0.90"}});
  EXPECT_EQ(s.config().train.seq_len, 256);
  EXPECT_EQ(s.config().train.micro_batch, 4);
  EXPECT_EQ(s.config().optim.settings, (Names{{"beta1", "0.9"}}));
  EXPECT_EQ(s.values().at("optim.beta1").origin, "default");
  Settings small(Sources{});
  small.complete(64, {});
  EXPECT_EQ(small.config().train.seq_len, 64);
  Settings given = from_line({"--train.micro_batch=8", "--optim.beta1=0.5", "--train.seq_len=128"});
  given.complete(1024, Names{{"beta1", "0.9"}});
  EXPECT_EQ(given.config().train.micro_batch, 8);
  EXPECT_EQ(given.config().optim.settings, (Names{{"beta1", "0.5"}}));
  const auto fails = [](std::vector<const char*> line,
                        std::initializer_list<std::string_view> words) {
    Settings bad = from_line(line);
    expect_error(Errc::config, words, [&] { bad.complete(1024, {}); });
  };
  fails({"--train.seq_len=2048"},
        {"command line: train.seq_len is at most the model's 1024 positions, got 2048"});
  fails({"--train.batch_tokens=1000"}, {"multiple of train.seq_len = 256, got 1000; 1024 is"});
  fails({"--train.batch_tokens=100"}, {"multiple of train.seq_len = 256, got 100; 256 is"});
  fails({"--train.micro_batch=5"}, {"train.micro_batch must divide the 16 sequences"});
}

TEST_F(ConfigTest, DefaultMicroBatchDividesAndKeepsItsBounds) {
  EXPECT_EQ(default_micro_batch(256, 4096), 4);
  EXPECT_EQ(default_micro_batch(1024, 524288), 1);
  EXPECT_EQ(default_micro_batch(8192, 524288), 1);
  EXPECT_EQ(default_micro_batch(256, 256), 1);
  EXPECT_EQ(default_micro_batch(64, 64 * 12), 12);
  EXPECT_EQ(default_micro_batch(64, 64 * 7 * 11), 11);
  for (std::int64_t sequences = 1; sequences < 100; ++sequences) {
    const std::int64_t b = default_micro_batch(128, 128 * sequences);
    EXPECT_EQ(sequences % b, 0);
    EXPECT_LE(b * 128, 1024);
  }
}

/// Another valid value of a field than its default.
std::string other_value(const Field& field) {
  switch (field.type) {
    case FieldType::boolean:
      return field.default_text == "false" ? "true" : "false";
    case FieldType::text:
      return "other";
    case FieldType::list:
    case FieldType::list_or_fraction:
      return "other.txt";
    case FieldType::choice:
      return std::string(field.words.back());
    case FieldType::real:
      return "0.75";
    case FieldType::recompute:
      return "block";
    default:
      return field.max < 17 ? "0" : "17";
  }
}

TEST_F(ConfigTest, TheHashSeesExactlyWhatMayChangeBits) {
  // Written out: whoever moves a setting to the other side has to say so here too.
  const std::set<std::string> without_effect = {"train.order",
                                                "train.eval_every",
                                                "train.eval_tokens",
                                                "numerics.update",
                                                "numerics.speculated",
                                                "numerics.checksum_every",
                                                "parallel.zero",
                                                "parallel.timeout",
                                                "memory.device",
                                                "memory.host",
                                                "memory.pinned",
                                                "memory.far",
                                                "memory.far_node",
                                                "memory.nvme",
                                                "memory.nvme_writes",
                                                "memory.placement",
                                                "memory.recompute",
                                                "numerics.allow_lossy",
                                                "checkpoint.every",
                                                "checkpoint.keep_last",
                                                "run.dir",
                                                "trace.steps",
                                                "resume",
                                                "io.engine",
                                                "io.verify",
                                                "io.pace_read",
                                                "io.pace_write",
                                                "threads"};
  const std::string base = Settings(Sources{}).numeric_hash();
  EXPECT_EQ(base.size(), 16u);
  std::set<std::string> hashes = {base};
  for (const Field& field : fields()) {
    const std::string argument = "--" + std::string(field.key) + "=" + other_value(field);
    std::vector<const char*> line = {argument.c_str()};
    if (field.key == "memory.activation_codec") {
      line.push_back("--numerics.allow_lossy=true");
    }
    const Settings changed = from_line(line);
    if (changed.values().at(std::string(field.key)).text == field.default_text) {
      EXPECT_EQ(field.words.size(), 1u) << field.key;  // one choice so far
      continue;
    }
    const std::string hash = changed.numeric_hash();
    if (without_effect.contains(std::string(field.key))) {
      EXPECT_EQ(hash, base) << field.key;
    } else {
      EXPECT_TRUE(hashes.insert(hash).second) << field.key;
    }
  }
  EXPECT_NE(from_line({"--optim.beta1=0.5"}).numeric_hash(), base);
  EXPECT_EQ(from_line({"--train.steps=1000"}).numeric_hash(), base);
}

TEST_F(ConfigTest, ResolvedSettingsSurviveTomlAndCheckpoints) {
  Settings s = from_line({"--model.init_from=dir \"x\" \\ \xC3\xA9",
                          "--data.train=a,b",
                          "--data.valid=0.1",
                          "--memory.device=2GiB",
                          "--memory.recompute=1:block,0:none",
                          "--optim.beta1=0.9",
                          "--optim.nesterov=true",
                          "--optim.name=some text",
                          "--train.schedule.lr=1e-22",
                          "--resume=x",
                          "--model.bias=false"});
  s.complete(1024, {});
  const Settings from_toml = from_file(s.toml());
  std::map<std::string, std::string> texts;
  for (const auto& [key, value] : s.values()) {
    texts[key] = value.text;
    const bool of_one_start = key == "resume" || key == "run.dir";
    EXPECT_EQ(from_toml.values().at(key).text == value.text, !of_one_start || key == "run.dir")
        << key;
  }
  EXPECT_EQ(from_toml.values().size(), s.values().size());
  EXPECT_EQ(from_toml.numeric_hash(), s.numeric_hash());
  EXPECT_EQ(from_toml.toml(), s.toml());
  const Settings restored({.restored = texts});
  EXPECT_EQ(restored.toml(), s.toml());
}

TEST_F(ConfigTest, HelpAndSchemaNameEveryField) {
  const std::vector<std::string_view> train = {"train"};
  const std::string help = settings_help(train);
  EXPECT_THAT(help, HasSubstr("--train.steps=N"));
  EXPECT_THAT(help, HasSubstr("optimizer steps [1000]\n"));
  EXPECT_THAT(help, HasSubstr("--train.schedule.kind=constant|linear|cosine|wsd"));
  EXPECT_EQ(help.find("--threads"), std::string::npos);
  const nlohmann::json schema = nlohmann::json::parse(settings_schema());
  for (const Field& field : fields()) {
    std::string pointer = "/properties/" + std::string(field.key);
    for (std::size_t at = pointer.find('.'); at != std::string::npos; at = pointer.find('.')) {
      pointer.replace(at, 1, "/properties/");
    }
    const nlohmann::json entry = schema.at(nlohmann::json::json_pointer(pointer));
    EXPECT_EQ(entry.at("description"), std::string(field.help));
    EXPECT_TRUE(entry.contains("default"));
  }
  EXPECT_EQ(schema.at("/properties/train/properties/steps/default"_json_pointer), 1000);
  EXPECT_EQ(schema.at("additionalProperties"), false);
  EXPECT_EQ(schema.at("/properties/train/additionalProperties"_json_pointer), false);
  EXPECT_EQ(schema.at("/properties/optim/additionalProperties"_json_pointer), true);
}

}  // namespace
}  // namespace strata::launch
