#!/bin/sh
# Chromium and its driver, from the system's packages: installed where they are absent, if that may be done here.
set -eu
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends chromium chromium-driver
  exit 0
fi
echo "chromium and chromedriver are not both here. Install them, e.g.: sudo apt-get install chromium chromium-driver" >&2
if [ "${CI:-}" = true ]; then
  exit 1
fi
echo "The report is not tried in a browser." >&2
