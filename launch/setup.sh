# Sourced by launch/quickstart and tests/run from the root of the checkout.

# Installs the Debian packages of launch/packages.txt that are missing. Without the right to, prints the
# command and ends with exit code 2.
install_packages() {
  local missing=() package
  while read -r package; do
    [ -n "$package" ] || continue
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done < launch/packages.txt
  [ ${#missing[@]} -eq 0 ] && return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo)
    else
      echo "strata: ${#missing[@]} packages are missing and this user may not install them. Run:" >&2
      echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 2
    fi
  fi
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq >/dev/null || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
    echo "strata: apt-get could not install: ${missing[*]}" >&2
    exit 2
  }
}

# configure_and_build DIRECTORY [CMAKE OPTIONS]
configure_and_build() {
  local directory=$1
  shift
  cmake -S . -B "$directory" -G Ninja "$@" > "$directory.configure.log" 2>&1 || {
    cat "$directory.configure.log" >&2
    rm -f "$directory.configure.log"
    echo "strata: configuring $directory failed" >&2
    exit 1
  }
  rm -f "$directory.configure.log"
  cmake --build "$directory" || exit 1
}
