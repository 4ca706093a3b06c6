#!/bin/sh
# MuJoCo renders off-screen through EGL. Install its libraries where we may, else say what to type.
have() { ldconfig -p 2>/dev/null | grep -q "$1"; }
if [ "$(uname)" = Darwin ]; then exit 0; fi
if have 'libEGL\.so\.1' && { have 'libEGL_mesa\.so' || have 'libEGL_nvidia\.so'; }; then exit 0; fi
install="apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing EGL: $install"
    apt-get update -qq && $install -qq >/dev/null && exit 0
fi
echo "MuJoCo needs EGL libraries that are missing here. Run:  sudo $install" >&2
exit 1
