# Toolchain: Debian's cross compiler, with the libraries of an arm64 Debian in GODWIT_SYSROOT
# (integration/vm/cross.py makes it). Programs that the build runs are this machine's own.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(GODWIT_SYSROOT "" CACHE PATH "Root of the other machine's files")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES GODWIT_SYSROOT)
set(CMAKE_SYSROOT ${GODWIT_SYSROOT})
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${GODWIT_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR}
  ${GODWIT_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${GODWIT_SYSROOT}/usr/share/pkgconfig)
find_program(Protobuf_PROTOC_EXECUTABLE protoc)
