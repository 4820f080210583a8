// Methods that are other methods with other parts.
#include "optim/composition.h"

namespace strata::optim {
namespace {

// Dettmers et al., 8-bit optimizers via block-wise quantization, ICLR 2022. 2.03 bytes per
// parameter of a matrix (1.02 with one moment); embeddings keep f32 moments.
const Preset adamw8bit{"adamw8bit",
                       {{"rule", "adam"}, {"states", "8bit"}, {"weight_decay", "0.1"}}};
const Preset lion8bit{"lion8bit", {{"rule", "lion"}, {"states", "8bit"}, {"weight_decay", "0.3"}}};
const Preset sgd8bit{
    "sgd8bit", {{"rule", "sgd"}, {"states", "8bit"}, {"momentum", "0.9"}, {"weight_decay", "0"}}};
// Li et al., Memory efficient optimizers with 4-bit states, NeurIPS 2023; codes as in torchao. 1.06
// bytes per parameter of a matrix.
const Preset adamw4bit{"adamw4bit",
                       {{"rule", "adam"}, {"states", "4bit"}, {"weight_decay", "0.1"}}};
// Xi et al., COAT: compressing optimizer states and activation for memory-efficient FP8 training,
// ICLR 2025. 2.19 bytes per parameter, embeddings too.
const Preset coat_adamw{
    "coat_adamw",
    {{"rule", "adam"}, {"states", "fp8"}, {"code_embeddings", "true"}, {"weight_decay", "0.1"}}};

}  // namespace
}  // namespace strata::optim
