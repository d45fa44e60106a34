# shellcheck shell=bash
# Source it: `. scripts/env.sh` gives a bash or zsh in which everything works (environment, interface overlay, library path).

if [ -n "${BASH_SOURCE:-}" ]; then
  _convonet_file=${BASH_SOURCE[0]}
elif [ -n "${ZSH_VERSION:-}" ]; then
  _convonet_file=$(eval 'printf %s "${(%):-%x}"')
else
  _convonet_file=$PWD/scripts/env.sh # a plain sh does not say which file it reads: source it in the repository's root
fi
_convonet_root=$(cd "$(dirname "$_convonet_file")/.." && pwd)

if [ ! -f "$_convonet_root/.venv/bin/activate" ]; then
  echo "env.sh: no environment in $_convonet_root/.venv; run 'make setup' first." >&2
  return 1
fi
if [ ! -d "$_convonet_root/.venv/share/rclpy" ] && [ -z "${ROS_DISTRO:-}" ]; then
  echo "env.sh: 'make setup' found a sourced ROS 2; source its setup.bash here too, or run 'make setup' in this shell." >&2
  return 1
fi
# shellcheck disable=SC1091
. "$_convonet_root/.venv/bin/activate"

# _convonet_prepend NAME FOLDER: puts FOLDER first in the path variable NAME, unless it is in it.
_convonet_prepend() {
  _convonet_old=$(eval "printf %s \"\${$1:-}\"")
  case ":$_convonet_old:" in
    *":$2:"*) ;;
    *) export "$1=$2${_convonet_old:+:$_convonet_old}" ;;
  esac
}

# Without a sourced ROS 2 the ROS wheels in the environment are the underlay. Their Python start-up hook runs Python a second
# time to set the library path; it is set here instead.
if [ -d "$_convonet_root/.venv/share/rclpy" ]; then
  _convonet_prepend AMENT_PREFIX_PATH "$_convonet_root/.venv"
  _convonet_prepend CMAKE_PREFIX_PATH "$_convonet_root/.venv"
  for _convonet_folder in $(find "$_convonet_root"/.venv/lib/python3*/site-packages -maxdepth 1 -name 'ros_*.libs') \
    "$_convonet_root/.venv/lib"; do
    _convonet_prepend LD_LIBRARY_PATH "$_convonet_folder"
  done
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
fi

# The overlay gives convonet_ros.msg and convonet_ros.srv, and tf2_msgs where ROS 2 lacks it. The repository comes before it, so
# that the modules are those of the working tree.
if [ -d "$_convonet_root/.cache/install" ]; then
  _convonet_prepend AMENT_PREFIX_PATH "$_convonet_root/.cache/install"
  _convonet_prepend CMAKE_PREFIX_PATH "$_convonet_root/.cache/install"
  _convonet_prepend LD_LIBRARY_PATH "$_convonet_root/.cache/install/lib"
  _convonet_prepend PYTHONPATH "$(find "$_convonet_root/.cache/install" -type d \
    '(' -name site-packages -o -name dist-packages ')')"
fi
_convonet_prepend PYTHONPATH "$_convonet_root"

unset _convonet_file _convonet_root _convonet_old _convonet_folder
unset -f _convonet_prepend
