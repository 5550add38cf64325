# Sourced by scripts/test: PostgreSQL's server programs, which the tests of the store start on loopback.
#
# Installed where apt-get and the right to use it are there; otherwise the tests that need it say that they are skipped.

have_postgres() {
  command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

install_postgres() {
  have_postgres && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing PostgreSQL for the tests of the store"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } \
      >"$TOOLS/postgres.log" 2>&1 || true
  fi
  have_postgres || say "PostgreSQL IS NOT TESTED: its server is not installed (Debian: apt-get install postgresql)"
}
