#!/usr/bin/env bash
# Sets everything up: the environment in .venv/, the interface overlay in .cache/. Does nothing when nothing changed.
# A sourced ROS 2 is used where there is one; else ROS 2 comes from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
overlay=$root/.cache/install

trap 'echo "setup: stopped by line $LINENO of scripts/setup.sh: $BASH_COMMAND" >&2' ERR

fail() {
  echo "setup: $*" >&2
  exit 1
}

say() {
  echo "setup: $*"
}

case $root in
  *[[:space:]:]*) fail "the path of this folder, '$root', holds a space or a colon, which CMake and ROS cannot take. Move it." ;;
esac

# What scripts/env.sh put there must not steer the set-up itself.
strip_ours() {
  local kept="" part
  local -a parts
  IFS=: read -ra parts <<<"${!1:-}"
  for part in "${parts[@]}"; do
    case $part in
      "" | "$root" | "$root"/.venv* | "$root"/.cache*) ;;
      *) kept=$kept${kept:+:}$part ;;
    esac
  done
  if [ -n "$kept" ]; then export "$1=$kept"; else unset "$1"; fi
}
for name in PATH PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH; do strip_ours $name; done
unset VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

# --- Which ROS 2, which Python ---

supported() {
  "$1" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if [ -n "${ROS_DISTRO:-}" ] && python3 -c "import rclpy" 2>/dev/null; then
  ros=$ROS_DISTRO
  python=$(command -v python3) # rclpy is built for this one and no other
  supported "$python" || fail "the Python of the sourced ROS 2 ($ROS_DISTRO) is $("$python" --version 2>&1); 3.10 to 3.13 is needed." \
    "Source a newer ROS 2, or none: then it is taken from PyPI."
else
  ros=pypi
  unset PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH
  python=
  for name in python3 python3.12 python3.11 python3.10 python3.13; do
    if supported "$name"; then
      python=$(command -v "$name")
      break
    fi
  done
  [ -n "$python" ] || fail "Python 3.10 to 3.13 is needed, python3 is: $(python3 --version 2>/dev/null || echo missing)." \
    "Install one of them, for example as python3.11."
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "PyPI has ROS 2 for Linux x86_64 only, this is $(uname -sm)." \
    "Install ROS 2, source its setup.bash and run this again."
fi

# --- Nothing to do? ---

mkdir -p .cache
exec 9>.cache/lock
flock 9 # two of these at once would spoil each other's work

# Everything the environment is made from, and everything the overlay is made from.
stamp_of_environment() {
  { echo "$root" "$ros" "$python"; "$python" --version; cat scripts/setup.sh scripts/constraints.txt setup.py package.xml; } | sha256sum
}
stamp_of_overlay() {
  {
    stamp_of_environment
    cat CMakeLists.txt scripts/node.in msg/* srv/* scripts/tf2_msgs/*.* scripts/tf2_msgs/msg/*
    ls launch config rviz
  } | sha256sum
}
fresh() {
  [ "$(cat "$1" 2>/dev/null)" = "$2" ]
}
environment_stamp=$(stamp_of_environment)
overlay_stamp=$(stamp_of_overlay)
if fresh "$venv/.stamp" "$environment_stamp" && fresh "$overlay/.stamp" "$overlay_stamp"; then exit 0; fi

# --- What the system has to give ---

missing=()
need() { # need <apt package> <command that succeeds when it is there>
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
system_python=$("$python" -c 'import sys; print(sys.prefix == "/usr")')
need g++ c++ --version
need gcc cc --version
need make make --version
need cmake cmake --version
need libusb-1.0-0 "$python" -c 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' # Open3D loads these
need libgomp1 "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")'
need libgl1 "$python" -c 'import ctypes; ctypes.CDLL("libGL.so.1")'
need libegl1 "$python" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' # VTK draws off-screen with it
need libx11-6 "$python" -c 'import ctypes; ctypes.CDLL("libX11.so.6")'
if [ "$system_python" = True ]; then # Debian and Ubuntu split Python into packages
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  need "$version-venv" "$python" -c 'import ensurepip, venv'
  need "$version-dev" "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
fi
if [ "$ros" != pypi ]; then need python3-colcon-common-extensions colcon --help; fi

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "missing: ${missing[*]} (names of Debian). Install them and run this again."
  if [ "$(id -u)" != 0 ]; then
    fail "missing: ${missing[*]}. Run this, then try again: sudo apt-get install -y ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } >.cache/apt.log 2>&1 ||
    fail "apt-get could not install ${missing[*]}: $(grep '^E:' .cache/apt.log | tail -1). Is there a network? All of it: $root/.cache/apt.log"
fi

# --- The environment ---

install() { # install <what, in words> <pip arguments>
  local what=$1
  shift
  say "installing $what"
  if ! "$venv/bin/python" -m pip install --disable-pip-version-check --retries 2 --constraint .cache/constraints.txt "$@" \
    >.cache/pip.log 2>&1; then
    if grep -q '^WARNING: Retrying' .cache/pip.log; then
      fail "pip could not reach its package index to install $what. Check the network, then run this again. All of it: $root/.cache/pip.log"
    fi
    fail "pip could not install $what: $(grep -m1 '^ERROR' .cache/pip.log). All of it: $root/.cache/pip.log"
  fi
}

# The wheels' exported CMake targets name the Python of the machine that built them; put ours there.
repair_cmake_of_wheels() {
  local include site
  include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  { grep -rlZ --include='*.cmake' /opt/python/ "$venv/share" || true; } | # no match: repaired already
    xargs -0r sed -Ei "s|/opt/python/cp[0-9]+-cp[0-9]+/include/python3\.[0-9]+|$include|g; s|/opt/python/cp[0-9]+-cp[0-9]+/lib/python3\.[0-9]+/site-packages|$site|g"
}

if ! fresh "$venv/.stamp" "$environment_stamp"; then
  rm -f "$venv/.stamp"
  # An environment of another Python, of another place or of an interrupted start is made anew.
  minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [[ "$("$venv/bin/pip" --version 2>/dev/null)" != *" from $venv/"*"(python $minor)" ]] ||
    ! grep -qx "include-system-site-packages = $([ "$ros" = pypi ] && echo false || echo true)" "$venv/pyvenv.cfg"; then
    say "making the environment .venv with $("$python" --version)"
    options=(--clear)
    if [ "$ros" != pypi ]; then options+=(--system-site-packages); fi
    "$python" -m venv "${options[@]}" "$venv" || fail "python -m venv failed, see above"
  fi

  cp scripts/constraints.txt .cache/constraints.txt
  # A distribution's ROS 2 is compiled for the distribution's numpy; the pins that want numpy 2 do not hold beside numpy 1.
  if [ "$ros" != pypi ] && "$python" -c 'import numpy; raise SystemExit(int(numpy.__version__[0]) > 1)' 2>/dev/null; then
    { grep '^torch==' scripts/constraints.txt; echo "numpy<2"; } >.cache/constraints.txt
  fi
  # With an NVIDIA GPU the user's own torch stays, whatever CUDA it is built for; its version replaces our pin.
  if nvidia-smi >/dev/null 2>&1 && torch=$("$venv/bin/python" -c 'import torch; print(torch.__version__)' 2>/dev/null); then
    sed -i "s|^torch==.*|torch==$torch|" .cache/constraints.txt
  fi

  install "the build tools" "setuptools<80"
  if [ "$ros" = pypi ]; then
    install "ROS 2" ros-kilted-rclpy ros-kilted-common-interfaces ros-kilted-rmw-fastrtps-cpp \
      ros-ament-package ros-python-cmake-module ros-fastrtps-cmake-module ros-ament-cmake-python \
      ros-kilted-ament-cmake ros-kilted-ament-cmake-include-directories ros-kilted-ament-cmake-ros-core \
      ros-kilted-rosidl-default-generators ros-kilted-rosidl-core-generators ros-kilted-rosidl-default-runtime \
      colcon-common-extensions
    repair_cmake_of_wheels
  fi
  install "PyTorch, Open3D and the other libraries (minutes the first time)" --no-build-isolation --editable ".[dev]"
  echo "$environment_stamp" >"$venv/.stamp"
fi

# --- The interface overlay ---

if ! fresh "$overlay/.stamp" "$overlay_stamp"; then
  say "building the interfaces"
  rm -rf .cache/build .cache/install
  # shellcheck disable=SC1091 # colcon needs what every shell of this project needs
  . scripts/env.sh
  packages=(convonet_ros)
  # PyPI lacks tf2_msgs; the one message of it that TF needs is built from its definition.
  if ! "$python" -c "import tf2_msgs" 2>/dev/null; then packages+=(tf2_msgs); fi
  colcon --log-base .cache/log build --base-paths . scripts/tf2_msgs --packages-select "${packages[@]}" \
    --build-base .cache/build --install-base .cache/install --merge-install --symlink-install \
    --cmake-args "-DPython3_EXECUTABLE=$venv/bin/python" >.cache/colcon.log 2>&1 ||
    fail "colcon could not build the interfaces: $(grep -m1 -iE 'error' .cache/colcon.log). All of it: $root/.cache/colcon.log"
  [ -d "$overlay/share/convonet_ros/msg" ] || fail "colcon built no interfaces; is package.xml valid? All it said: $root/.cache/colcon.log"
  echo "$overlay_stamp" >"$overlay/.stamp"
fi
say "ready: '. scripts/env.sh' gives a shell in which everything works"
