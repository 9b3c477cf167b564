#!/bin/sh
# All checks and times of ptyle on this machine's GPU; options are those of gpu/run.py. PYTHON says which Python.
here=$(dirname "$(readlink -f "$0")")
PYTHON=${PYTHON:-python3}
case $PYTHON in # checks start the program in folders of their own
  /*) ;;
  */*) PYTHON=$PWD/$PYTHON ;;
esac
export PYTHON PYTHONPATH="$here/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
exec "$PYTHON" "$here/gpu/run.py" --program "$here/bin/ptyle" "$@"
