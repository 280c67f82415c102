#!/bin/sh
# Runs the native engine's tests under sanitizers:
#     scripts/sanitize.sh address,undefined|thread [test files and pytest options]
# PYTHON names the interpreter of an environment with the dev extra. Builds below build/, and leaves the environment's own
# engine alone.
set -eu
cd "$(dirname "$0")/.."
sanitizers=${1:?address,undefined or thread}
shift
python=${PYTHON:-.venv/bin/python}
PATH=$(dirname "$python"):$PATH
folder=$PWD/build/sanitize-$(echo "$sanitizers" | tr , -)
site=$folder/site

cmake -S hetal/native -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" -DHETAL_SANITIZE="$sanitizers" >/dev/null
cmake --build "$folder/build"
rm -rf "$site"
mkdir -p "$site"
cp -R hetal "$site/hetal"
cmake --install "$folder/build" --prefix "$site" >/dev/null

# The sanitizer's library must come before all others; libstdc++ with it, so that it finds what it wraps.
library() { "${CXX:-g++}" -print-file-name="$1"; }
case $sanitizers in
*address*) preload="$(library libasan.so) $(library libstdc++.so.6)" ;;
thread) preload="$(library libtsan.so) $(library libstdc++.so.6)" ;;
*) preload="$(library libubsan.so) $(library libstdc++.so.6)" ;;
esac
# Python itself leaks at its end; every other finding ends the run.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:exitcode=66
# Other libraries' OpenMP stays on one thread; the engine's takes the threads of its Ring.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTHONPATH=$site:$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
export PYTHONPATH
[ $# -gt 0 ] || set -- tests/*/test_native_*.py tests/unit/test_reference_ring.py
# Capture at file descriptors would swallow the report of a sanitizer that ends the process.
# -S keeps the environment's own hetal out, -R fixed addresses, which the thread sanitizer needs.
LD_PRELOAD=$preload exec setarch -R "$python" -S -c '
import sys
sys.path.remove("")
from hetal.native import load_engine
path = load_engine().__file__
if not path.startswith(sys.argv[1]):
    sys.exit("this is another engine: " + path)
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--capture=sys", *sys.argv[2:]]))
' "$site" "$@"
