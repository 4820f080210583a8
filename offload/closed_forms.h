#pragma once
#include <array>
#include <cstdint>

// What a planner must come to in cases that are simple enough for a formula: its measure in tests,
// and rules of thumb. Bytes, seconds, bytes per second, operations per second.
namespace strata::offload {

/// What a block leaves for backward, of one step of a long context: its input and the attention's
/// output always go to the host; of the rest some rows of tokens do, the others are recomputed.
struct LongContextBlock {
  double input_bytes = 0, attention_bytes = 0, rest_bytes = 0;
  double forward_seconds = 0, backward_seconds = 0;
};
struct CopyRates {
  double to_host = 0, to_device = 0;
};
/// The largest part of the rest whose copies hide behind one block's forward and backward and for
/// which the host has room; the last two blocks' activations never leave. 0 to 1.
/// MEMO, arXiv 2407.12117.
double swapped_fraction(const LongContextBlock& block,
                        const CopyRates& rates,
                        std::int64_t host_bytes,
                        int blocks);

/// Products of a block per token, and its causal attention, whose work grows with the length.
struct TokenWork {
  double product_flops = 0;    // forward
  double attention_width = 0;  // channels of all heads together
};
/// From which sequence length on a block's forward takes as long as to copy this many bytes of each
/// token; 0: at any.
double free_swap_length(double bytes_per_token,
                        const TokenWork& work,
                        double flops_per_second,
                        double to_host);

/// Tokens of a step whose compute, everything recomputed, takes as long as reading and writing the
/// optimizer's `state_bytes` of each parameter. Of reads and writes on different drives the slower
/// counts alone.
double break_even_tokens(
    double state_bytes, double flops_per_second, double read, double write, bool one_drive = true);
/// As long as updating each parameter on the host.
double break_even_tokens(double flops_per_second, double host_updates_per_second);

/// What a window of time must hold if it is to hide the updates, beside other work of its own.
struct UpdateWindow {
  double params = 0;
  double state_bytes = 12;    // of a parameter, that come and go if it is updated on the device
  double host_updates = 0;    // per second
  double device_updates = 0;  // per second
  CopyRates rates = {};
  double up_seconds = 0, down_seconds = 0, device_seconds = 0;  // other work
};
struct DeviceShare {
  double fraction = 0;  // of the parameters, updated on the device
  double seconds = 0;   // of the busiest resource
};
/// Seconds of the busiest of host cores, both directions of the link and device.
double window_seconds(const UpdateWindow& window, double device_fraction);
/// The share that makes that least. Each resource's time is a line, so that the least is at an end
/// or where two lines meet; of shares that are equally good the smallest.
DeviceShare best_device_share(const UpdateWindow& window);

/// Part of the peak that is left when transfers do not overlap with compute, by operations per byte
/// moved. Of weights and gradients `tokens` operations per byte, of optimizer state a quarter of
/// that. ZeRO-Infinity, arXiv 2104.07857.
double serial_efficiency(double flops_per_byte, double bytes_per_second, double peak_flops);

}  // namespace strata::offload
