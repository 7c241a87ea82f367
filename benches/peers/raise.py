"""What CPython takes: the slot of a thread, set by PyThreadState_SetAsyncExc."""

import ctypes
import threading
import time

SET = ctypes.pythonapi.PyThreadState_SetAsyncExc
SET.argtypes = [ctypes.c_ulong, ctypes.py_object]
now = time.perf_counter_ns


class Raised(Exception):
    pass


def tell(what, samples):
    samples.sort()
    p50, p99 = (samples[int((len(samples) - 1) * p)] / 1000 for p in (0.5, 0.99))
    print(f"{what}\t{p50:.2f}\t{p99:.2f}", flush=True)


def raise_among(count):
    """One call, which walks the list of all threads. It clears the slot: nothing is ever raised."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    target, null = ctypes.c_ulong(threads[0].ident), ctypes.py_object()
    samples = []
    for _ in range(1000):
        began = now()
        for _ in range(10):
            SET(target, null)
        samples.append((now() - began) / 10)
    over.set()
    for thread in threads:
        thread.join()
    tell(f"SetAsyncExc, {count} threads", samples)


def out_of_a_loop():
    left = []

    def spin(ready, caught):
        try:
            ready.set()
            while True:
                pass
        except Raised:
            left.append(now())
        caught.set()

    samples = []
    for _ in range(100):
        ready, caught = threading.Event(), threading.Event()
        thread = threading.Thread(target=spin, args=(ready, caught))
        thread.start()
        ready.wait()
        began = now()
        SET(thread.ident, ctypes.py_object(Raised))
        caught.wait()
        thread.join()
        samples.append(left.pop() - began)
    tell("SetAsyncExc -> out of a loop of Python", samples)


raise_among(10)
raise_among(1000)
out_of_a_loop()
print("blocked in read, sleep or a lock\tnever\tnever")
