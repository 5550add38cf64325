# Sourced by scripts/test. Installs PostgreSQL's server, which the tests of the database start on loopback.
#
# The installation needs apt-get and root. Without them, the tests that need PostgreSQL are skipped and say so.

have_postgres() {
  command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

install_postgres() {
  have_postgres && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing PostgreSQL for the tests of the database"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } \
      >"$TOOLS/postgres.log" 2>&1 || true
  fi
  have_postgres || say "PostgreSQL IS NOT TESTED: its server is not installed (Debian: apt-get install postgresql)"
}
