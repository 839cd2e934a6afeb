"""A python program that computes and checks itself while it is moved: hashes, integers, floats, objects, threads.

Usage: compute_check.py STATUS-FILE STOP-FILE; READY, then PASS or FAIL: ... go to the status file.
"""

import hashlib
import os
import queue
import random
import sys
import threading
import time

STATUS, STOP = sys.argv[1:3]


def report(line):
    with open(STATUS, "a", encoding="ascii") as status:
        status.write(line + "\n")


def expect(condition, story):
    if not condition:
        report(f"FAIL: {story}")
        os._exit(1)


class HashChain:
    """Every link is made of the one before; the whole chain is computed again now and then."""

    def __init__(self):
        self.state, self.start, self.links = b"godwit", b"godwit", 0

    def turn(self):
        for _ in range(200):
            self.state = hashlib.sha256(self.state).digest()
        self.links += 200
        if self.links == 20_000:
            again = self.start
            for _ in range(self.links):
                again = hashlib.sha256(again).digest()
            expect(again == self.state, "the chain of hashes differs")
            self.start, self.links = self.state, 0


class Numbers:
    """The same by two ways: a power by squaring and by pow(), a sum by loop and by formula."""

    def __init__(self):
        self.random = random.Random(7)
        self.twin = random.Random(7)

    def turn(self):
        base, modulus = self.random.getrandbits(512), self.random.getrandbits(512) | 1
        expect(base == self.twin.getrandbits(512), "the twin generators differ")
        expect(modulus == self.twin.getrandbits(512) | 1, "the twin generators differ")
        power = 1
        for _ in range(65):
            power = power * base % modulus
        expect(power == pow(base, 65, modulus), "a power is wrong")
        expect(sum(float(n) for n in range(1000)) == 499500.0, "a sum of floats is wrong")


class Objects:
    """Dictionaries, lists and strings that are made and thrown away."""

    def __init__(self):
        self.kept = {}
        self.count = 0

    def turn(self):
        for _ in range(50):
            self.count += 1
            self.kept[self.count] = {"text": str(self.count) * 20, "list": list(range(self.count % 50))}
            if self.count > 2000:
                old = self.kept.pop(self.count - 2000)
                number = self.count - 2000
                expect(old["text"] == str(number) * 20, f"the text of object {number} is wrong")
                expect(old["list"] == list(range(number % 50)), f"the list of object {number} is wrong")


class Threads:
    """Workers behind queues that send back what they got."""

    def __init__(self):
        self.ask, self.answer = queue.Queue(), queue.Queue()
        self.number = 0
        for _ in range(3):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            number = self.ask.get(timeout=3600)
            self.answer.put((number, number * number))

    def turn(self):
        asked = set(range(self.number, self.number + 10))
        self.number += 10
        for number in asked:
            self.ask.put(number)
        for _ in range(10):
            number, square = self.answer.get(timeout=30)
            expect(square == number * number, "a worker's answer is wrong")
            asked.discard(number)
        expect(not asked, "an answer came twice")


def main():
    parts = [HashChain(), Numbers(), Objects(), Threads()]
    pid, last = os.getpid(), time.monotonic()
    report("READY")
    while not os.path.exists(STOP):
        for part in parts:
            part.turn()
        now = time.monotonic()
        expect(os.getpid() == pid, "the process id changed")
        expect(last <= now < last + 60, "the monotonic clock leapt")
        last = now
        time.sleep(0.002)
    report("PASS")


try:
    main()
except Exception as error:  # whatever it is, the verdict must be there
    report(f"FAIL: {type(error).__name__}: {error}")
    raise
