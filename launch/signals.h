#pragma once

namespace strata::launch {

/// Installs handlers for SIGINT, SIGTERM and SIGUSR1: the first asks for a stop at the next
/// decision, the same again at least 2 s later leaves at once with exit code 75.
void install_signal_handlers();
/// Whether a stop was asked for.
bool stop_requested();
/// Name of the signal that asked; empty: none did.
const char* stop_signal();

}  // namespace strata::launch
