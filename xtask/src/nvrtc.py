"""Compiles the jobs given as JSON on stdin with NVRTC; answers with JSON on stdout.

In: {"library": path, "jobs": [{"name", "source", "options"}]}. Out: [{"ptx": text or null, "log": text}] in order.
"""
import ctypes
import json
import sys


def text(lib, program, size_of, content_of):
    size = ctypes.c_size_t()
    getattr(lib, size_of)(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(lib, content_of)(program, buffer)
    return buffer.value.decode()


def compile_one(lib, job):
    program = ctypes.c_void_p()
    made = lib.nvrtcCreateProgram(
        ctypes.byref(program), job["source"].encode(), job["name"].encode(), 0, None, None
    )
    if made != 0:
        return {"ptx": None, "log": f"nvrtcCreateProgram answered {made}"}
    options = [option.encode() for option in job["options"]]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = text(lib, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
    ptx = text(lib, program, "nvrtcGetPTXSize", "nvrtcGetPTX") if status == 0 else None
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return {"ptx": ptx, "log": log}


request = json.load(sys.stdin)
library = ctypes.CDLL(request["library"])
json.dump([compile_one(library, job) for job in request["jobs"]], sys.stdout)
