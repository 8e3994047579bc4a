# SPDX-License-Identifier: Apache-2.0
"""Runs a command to which io_uring is forbidden, as container runtimes' default seccomp profiles do.

usage: without_io_uring.py COMMAND [ARGUMENT...]
"""
import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_EPERM = 0x7FFF0000, 0x00050000 | 1
IO_URING_SETUP = 425  # on all architectures
LOAD_CALL_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


def instruction(code, true, false, value):
    return struct.pack("HBBI", code, true, false, value)


class Program(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def forbid():
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join([instruction(LOAD_CALL_NUMBER, 0, 0, 0), instruction(JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
                     instruction(RETURN, 0, 0, RET_EPERM), instruction(RETURN, 0, 0, RET_ALLOW)])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
        raise SystemExit(os.strerror(ctypes.get_errno()))


forbid()
os.execvp(sys.argv[1], sys.argv[1:])
