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

// Zhao et al., GaLore: memory-efficient LLM training by gradient low-rank projection, ICML 2024.
// For a matrix with sides S <= L and rank R: basis S R and moments 2 L R, all in bf16 as its
// recipes are.
const Preset galore{"galore",
                    {{"rule", "adam"},
                     {"beta2", "0.999"},
                     {"eps", "1e-6"},
                     {"family", "hf"},
                     {"states", "bf16"},
                     {"subspace", "svd"},
                     {"basis_dtype", "bf16"},
                     {"scale", "0.25"},
                     {"weight_decay", "0"}}};
// The same on the 8-bit Adam of bitsandbytes: its eps, and decay of the new weight.
const Preset galore8bit{"galore8bit",
                        {{"rule", "adam"},
                         {"beta2", "0.999"},
                         {"eps", "1e-8"},
                         {"family", "bnb"},
                         {"states", "8bit"},
                         {"subspace", "svd"},
                         {"basis_dtype", "bf16"},
                         {"scale", "0.25"},
                         {"weight_decay", "0"}}};
// Zhang et al., Q-GaLore: quantized GaLore with INT4 projection and layer-adaptive low-rank
// gradients, 2024. Basis S R / 2 bytes, moments 2.03 L R; with --train.weights=int8, as there.
const Preset qgalore{"qgalore",
                     {{"rule", "adam"},
                      {"beta2", "0.999"},
                      {"eps", "1e-8"},
                      {"family", "bnb"},
                      {"states", "8bit"},
                      {"subspace", "svd"},
                      {"basis_dtype", "int4"},
                      {"lazy", "true"},
                      {"scale", "0.25"},
                      {"weight_decay", "0"}}};
// Das, Natural GaLore: accelerating GaLore for memory-efficient LLM training and fine-tuning, 2024;
// one-sided, its history cleared at a refresh. GaLore's state and 4 fisher_window L R bytes.
const Preset natural_galore{"natural_galore",
                            {{"rule", "adam"},
                             {"beta2", "0.999"},
                             {"eps", "1e-6"},
                             {"family", "hf"},
                             {"states", "bf16"},
                             {"subspace", "svd"},
                             {"basis_dtype", "bf16"},
                             {"natural", "true"},
                             {"scale", "0.25"},
                             {"weight_decay", "0"}}};
// Chen et al., Fira: can we achieve full-rank training of LLMs under low-rank constraint?, 2024.
// GaLore's state and one number.
const Preset fira{"fira",
                  {{"rule", "adam"},
                   {"beta2", "0.999"},
                   {"eps", "1e-6"},
                   {"family", "hf"},
                   {"states", "bf16"},
                   {"subspace", "svd"},
                   {"basis_dtype", "bf16"},
                   {"remainder", "residual"},
                   {"scale", "0.25"},
                   {"weight_decay", "0"}}};
// Zhu et al., APOLLO: SGD-like memory, AdamW-level performance, MLSys 2025. Moments 2 L R in f32
// and one number; the projection is drawn again in each step.
const Preset apollo{"apollo",
                    {{"rule", "adam"},
                     {"beta2", "0.999"},
                     {"eps", "1e-6"},
                     {"family", "hf"},
                     {"subspace", "gaussian"},
                     {"remainder", "channel"},
                     {"weight_decay", "0"}}};
const Preset apollo_mini{"apollo_mini",
                         {{"rule", "adam"},
                          {"beta2", "0.999"},
                          {"eps", "1e-6"},
                          {"family", "hf"},
                          {"subspace", "gaussian"},
                          {"rank", "1"},
                          {"remainder", "tensor"},
                          {"scale", "128"},
                          {"weight_decay", "0"}}};
// Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, ICLR 2025. 8 (a b + a^2 + b^2)
// bytes for a matrix (a, b).
const Preset soap{"soap",
                  {{"rule", "adam"},
                   {"beta1", "0.95"},
                   {"beta2", "0.95"},
                   {"eps", "1e-8"},
                   {"family", "hf"},
                   {"subspace", "eigenbasis"},
                   {"weight_decay", "0.01"}}};
// Zmushko et al., FRUGAL, 2024. 8 bytes for each element of the chosen columns.
const Preset frugal{"frugal",
                    {{"rule", "adam"},
                     {"beta2", "0.999"},
                     {"subspace", "columns"},
                     {"remainder", "sign"},
                     {"reset", "true"},
                     {"weight_decay", "0"}}};

// Luo et al., BAdam, NeurIPS 2024. One decoder block at a time has gradient and moments, 8 bytes
// per parameter of it, 12 beside bf16 weights; embedding and head stay.
const Preset badam{"badam", {{"rule", "adam"}, {"beta2", "0.999"}, {"subspace", "blocks"}}};
// Pan et al., LISA, NeurIPS 2024: the same of drawn blocks beside embedding and head, which always
// train.
const Preset lisa{"lisa",
                  {{"rule", "adam"},
                   {"beta2", "0.999"},
                   {"subspace", "blocks"},
                   {"blocks", "2"},
                   {"order", "drawn"},
                   {"ends", "always"},
                   {"refresh_every", "20"}}};

}  // namespace
}  // namespace strata::optim
