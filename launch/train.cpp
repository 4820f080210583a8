// strata train, strata resume: one run.
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "launch/commands.h"
#include "launch/model_dir.h"
#include "launch/ranks.h"
#include "launch/report.h"
#include "launch/signals.h"
#include "launch/trainer.h"

namespace strata::launch {
namespace {

const std::vector<Option> kOptions{{"--json", "", "print one JSON object at the end"}};

Arguments read(Words words) {
  std::vector<const char*> raw;
  for (const std::string& word : words) {
    raw.push_back(word.c_str());
  }
  return read_arguments(raw, kOptions);
}

bool given(const Settings& settings, const char* key) {
  return settings.values().at(key).origin != "default";
}

/// The checkpoint that the settings ask to go on from; empty: none.
std::filesystem::path resume_from(const RunConfig& config) {
  switch (config.resume) {
    case Resume::automatic:
      return find_checkpoint(config.run_dir, checkpoint::Check::every_byte);
    case Resume::path: {
      const auto found = find_checkpoint(config.resume_path, checkpoint::Check::every_byte);
      if (found.empty()) {
        throw Error(
            Errc::format,
            fmt::format("resume: {} is neither a run with a complete checkpoint nor a checkpoint; "
                        "--resume auto starts afresh when there is none",
                        config.resume_path));
      }
      return found;
    }
    case Resume::never:
      break;
  }
  return {};
}

void print_end(const TrainResult& r, bool json) {
  const auto share = [](std::int64_t a, std::int64_t b) {
    return 100.0 * static_cast<double>(a) / static_cast<double>(b);
  };
  if (r.steps_done > 0) {
    std::fprintf(stderr,
                 "memory: planned %s, used %s (%.1f %% of the plan), resident set %s at most\n",
                 offload::bytes_text(r.planned_bytes).c_str(),
                 offload::bytes_text(r.ledger_peak_bytes).c_str(),
                 share(r.ledger_peak_bytes, r.planned_bytes),
                 offload::bytes_text(r.resident_peak_bytes).c_str());
    for (const LabelPeaks& p : r.different_peaks) {
      std::fprintf(stderr,
                   "  %s: planned %s, used %s\n",
                   p.label.c_str(),
                   offload::bytes_text(p.planned_bytes).c_str(),
                   offload::bytes_text(p.used_bytes).c_str());
    }
    if (r.offloaded) {
      print_outcome(*r.offloaded);
    }
  }
  std::fprintf(stderr,
               "%s at step %lld; checkpoint %s\n",
               r.steps_done == 0 ? "nothing to do"
               : r.interrupted   ? "stopped"
                                 : "done",
               static_cast<long long>(r.step),
               r.checkpoint.c_str());
  if (json) {
    nlohmann::json model = nlohmann::json::array();
    for (const ModelBytes& m : r.model_bytes) {
      model.push_back(
          {{"weights_bytes", m.weights}, {"grads_bytes", m.grads}, {"state_bytes", m.state}});
    }
    nlohmann::json object{
        {"step", r.step},
        {"loss", r.loss},
        {"validation_loss",
         r.validation_loss ? nlohmann::json(*r.validation_loss) : nlohmann::json(nullptr)},
        {"planned_bytes", r.planned_bytes},
        {"ledger_peak_bytes", r.ledger_peak_bytes},
        {"resident_peak_bytes", r.resident_peak_bytes},
        {"model_by_rank", model},
        {"checkpoint", r.checkpoint.string()},
        {"interrupted", r.interrupted}};
    if (r.offloaded) {
      object["offloaded"] = outcome_json(*r.offloaded);
    }
    std::printf("%s\n", object.dump().c_str());
  }
}

/// A resumed run keeps its model: the weights of another shape or family are not there.
void require_same_model(const Settings& settings, const std::map<std::string, std::string>& saved) {
  for (const auto& [key, value] : settings.values()) {
    const auto old = saved.find(key);
    if (key.starts_with("model.") && key != "model.dropout" && old != saved.end() &&
        old->second != value.text) {
      throw Error(
          Errc::config,
          fmt::format("resume: {} is '{}' in the checkpoint and '{}' here ({}); a resumed run "
                      "keeps its model; leave it out, or start a run of its own in another "
                      "--run.dir",
                      key,
                      old->second,
                      value.text,
                      value.origin));
    }
  }
}

/// What `--parallel.timeout` says; settings that cannot be read are told of once the ranks have
/// met.
double timeout_of(const Sources& sources) {
  try {
    return Settings(sources).config().timeout_seconds;
  } catch (const Error&) {
    constexpr double kSeconds = 600;
    return kSeconds;
  }
}

int run_on(Communicator& ranks, Sources sources, bool json) {
  std::optional<RunDir> dir;  // of rank 0, which alone writes to it by name
  bool resume_asked = false;
  std::string run, found;
  together(ranks, [&] {
    const Settings first(sources);
    run = first.config().run_dir;
    resume_asked = given(first, "resume") && first.config().resume != Resume::never;
    if (ranks.rank() == 0) {
      dir.emplace(run, resume_asked ? Earlier::accept : Earlier::refuse);
      found = resume_asked ? resume_from(first.config()).string() : "";
    }
  });
  const std::filesystem::path checkpoint = text_of_first(ranks, found);
  std::optional<Job> job;
  together(ranks, [&] {
    if (!checkpoint.empty()) {  // a resumed run keeps its settings unless others are given
      sources.restored = checkpoint::Reader(checkpoint).state().settings;
      sources.restored.erase("resume");
      sources.restored.erase("run.dir");
    }
    Settings settings(sources);
    require_same_model(settings, sources.restored);
    job = make_job(std::move(settings), checkpoint, Text::required, place_of(ranks));
  });
  if (resume_asked && checkpoint.empty() && ranks.rank() == 0) {
    std::fprintf(stderr, "no checkpoint in %s: starting at step 1\n", run.c_str());
  }
  share_cores(ranks, job->settings.config().threads);
  install_signal_handlers();
  const TrainResult result =
      run_training(std::move(*job), ranks, dir ? &*dir : nullptr, checkpoint);
  if (ranks.rank() == 0) {
    print_end(result, json);
  }
  return result.interrupted ? static_cast<int>(Errc::interrupted) : 0;
}

int run_settings(const Sources& sources, bool json) {
  return with_ranks(timeout_of(sources),
                    [&](Communicator& ranks) { return run_on(ranks, sources, json); });
}

}  // namespace

int train(Words words) {
  const Arguments args = read(words);
  if (args.help) {
    constexpr std::string_view all[] = {"model",
                                        "data",
                                        "train",
                                        "optim",
                                        "numerics",
                                        "memory",
                                        "checkpoint",
                                        "run",
                                        "trace",
                                        "resume",
                                        "io",
                                        "threads"};
    std::printf("usage: strata train [-c run.toml] [--KEY=VALUE ...]\n\n%s\n%s",
                options_help(kOptions).c_str(),
                settings_help(all).c_str());
    return 0;
  }
  if (!args.positional.empty()) {
    throw Error(Errc::config,
                fmt::format("train: takes settings only, got '{}'; did you mean --run.dir={}?",
                            args.positional[0],
                            args.positional[0]));
  }
  return run_settings({{}, args.file, process_environment(), args.settings},
                      args.options.contains("--json"));
}

int resume(Words words) {
  Arguments args = read(words);
  if (args.help || args.positional.size() != 1) {
    if (args.help) {
      std::printf(
          "usage: strata resume RUN [--KEY=VALUE ...]   goes on with a run, with its settings\n");
      return 0;
    }
    throw Error(Errc::config, "resume: needs one run directory; see strata resume --help");
  }
  const std::string& run = args.positional[0];
  if (find_checkpoint(run).empty()) {
    throw Error(
        Errc::format,
        fmt::format("resume: {} holds no complete checkpoint; give a run directory, or start "
                    "one with strata train",
                    run));
  }
  args.settings.push_back({"run.dir", {Raw::Kind::word, run, {}}, "command line"});
  args.settings.push_back({"resume", {Raw::Kind::word, "auto", {}}, "command line"});
  return run_settings({{}, args.file, process_environment(), args.settings},
                      args.options.contains("--json"));
}

}  // namespace strata::launch
