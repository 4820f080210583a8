// strata import llama2c FILE --tokenizer FILE -o DIR: a Hugging Face directory from another format.
#include <cstdio>

#include <fmt/format.h>

#include "core/error.h"
#include "data/tokenizer.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "models/hf.h"

namespace strata::launch {

int import_model(Words words) {
  using Kind = CommandOption::Kind;
  using Presence = CommandOption::Presence;
  const Args args(
      "import",
      words,
      {"llama2c", "FILE"},
      {{"--tokenizer", "", "the model's tokenizer file", Kind::text, Presence::required},
       {"-o", "", "directory to write", Kind::text, Presence::required}});
  if (args.help()) {
    return 0;
  }
  if (args.positional(0) != "llama2c") {
    throw Error(Errc::config,
                fmt::format("import: unknown format '{}'; known: llama2c", args.positional(0)));
  }
  const std::filesystem::path target = args.text("-o");
  if (exists(target)) {
    throw Error(Errc::config,
                fmt::format("import: {} exists; choose a new directory", target.string()));
  }
  const models::Llama2c model = models::read_llama2c(args.positional(1));
  const auto tokenizer = data::llama2c_tokenizer(args.text("--tokenizer"), model.config.V);
  std::vector<models::ExtraFile> extra;
  for (const auto& file : tokenizer->files()) {
    extra.push_back({file.name, file.content});
  }
  models::write_model(target, model.config, DType::f32, model.source, extra);
  std::fprintf(stderr,
               "imported %lld parameters into %s\n",
               static_cast<long long>(models::parameter_count(model.config)),
               target.c_str());
  return 0;
}

}  // namespace strata::launch
