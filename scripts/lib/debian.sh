# Sourced by scripts/test. Installs the Debian packages that some tests use: PostgreSQL's server and Chromium.
#
# The installation needs apt-get and root. Without them, the tests of the missing program are skipped and say so.

have_postgres() {
  command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

have_chromium() { command -v chromium >/dev/null 2>&1; }

# install_for_tests NAME PACKAGE TESTED: have_NAME tells if the program is there.
install_for_tests() {
  local have="have_$1" package="$2" tested="$3"
  "$have" && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing $package for the tests of $tested"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } \
      >"$TOOLS/$package.log" 2>&1 || true
  fi
  "$have" || say "$tested NOT TESTED: $package is not installed (Debian: apt-get install $package)"
}
