#pragma once
#include <string_view>

namespace strata::checkpoint {

// Names for STRATA_KILL_AT (core/kill_point.h), in the order in which a save passes them.
inline constexpr std::string_view kKillStaged = "ckpt.stage.created";
inline constexpr std::string_view kKillOpened = "ckpt.data.opened";
inline constexpr std::string_view kKillWritten = "ckpt.data.written";
inline constexpr std::string_view kKillSynced = "ckpt.data.synced";
inline constexpr std::string_view kKillVoted = "ckpt.voted";
inline constexpr std::string_view kKillManifestWritten = "ckpt.manifest.written";
inline constexpr std::string_view kKillRenamed = "ckpt.renamed";
inline constexpr std::string_view kKillCommitted = "ckpt.committed";
inline constexpr std::string_view kKillTrashed = "ckpt.retention.renamed";

inline constexpr std::string_view kKillPoints[] = {kKillStaged,
                                                   kKillOpened,
                                                   kKillWritten,
                                                   kKillSynced,
                                                   kKillVoted,
                                                   kKillManifestWritten,
                                                   kKillRenamed,
                                                   kKillCommitted,
                                                   kKillTrashed};

}  // namespace strata::checkpoint
