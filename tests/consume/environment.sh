# Sourced by check.sh and install.sh, which set $work, the folder with their logs.

fail() {
  echo "packages: $*" >&2
  exit 1
}

platlib() { # PYTHON
  "$1" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'
}

quietly() { # LOG COMMAND...: shows the output only where the command fails
  local log=$work/$1.log
  shift
  "$@" > "$log" 2>&1 < /dev/null || {
    tail -n 40 "$log" >&2
    fail "failed: $*"
  }
}

# link_environment PYTHON FOLDER: an environment without ptyle. torch takes 4 GB: its folders, and all
# others that PYTHON's environment holds, are linked to, in the place where they would be installed.
link_environment() {
  local site entry name
  rm -rf "$2"
  "$1" -m venv --without-pip "$2"
  site=$(platlib "$2/bin/python")
  for entry in "$(platlib "$1")"/*; do
    name=${entry##*/}
    case "$name" in
      ptyle | ptyle-* | pip | pip-* | __pycache__) ;;
      *) ln -s "$entry" "$site/$name" ;;
    esac
  done
}
