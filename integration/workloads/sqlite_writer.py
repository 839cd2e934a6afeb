"""A program that writes transactions to an sqlite database and checks what it has written.

Usage: sqlite_writer.py STATUS-FILE STOP-FILE DATABASE; READY, then PASS or FAIL: ... go to the status file.
Each transaction moves an amount from one account to another and notes that in a journal of its own:
whatever is committed, the sum stays the same and the journal has no gap.
"""

import os
import random
import sqlite3
import sys
import time

STATUS, STOP, DATABASE = sys.argv[1:4]
ACCOUNTS = 200
START = 1000


def report(line):
    with open(STATUS, "a", encoding="ascii") as status:
        status.write(line + "\n")


def expect(condition, story):
    if not condition:
        report(f"FAIL: {story}")
        os._exit(1)


def set_up(connection):
    connection.execute("create table accounts (id integer primary key, amount integer not null)")
    connection.execute("create table transfers (number integer primary key, source integer,"
                       " target integer, amount integer, note text)")
    connection.executemany("insert into accounts values (?, ?)",
                           ((number, START) for number in range(ACCOUNTS)))


def transfer(connection, number, source, target, amount):
    connection.execute("begin immediate")
    connection.execute("update accounts set amount = amount - ? where id = ?", (amount, source))
    connection.execute("update accounts set amount = amount + ? where id = ?", (amount, target))
    connection.execute("insert into transfers values (?, ?, ?, ?, ?)",
                       (number, source, target, amount, "x" * (number % 300)))
    connection.execute("commit" if number % 10 else "rollback")


def check(connection, done):
    total, = connection.execute("select sum(amount) from accounts").fetchone()
    expect(total == ACCOUNTS * START, f"the sum of all accounts is {total}")
    count, = connection.execute("select count(*) from transfers").fetchone()
    expect(count == done - done // 10, f"{count} transfers of {done} are there")


def main():
    connection = sqlite3.connect(DATABASE, isolation_level=None)
    set_up(connection)
    chance, number = random.Random(7), 0
    report("READY")
    while not os.path.exists(STOP):
        number += 1
        source, target = chance.sample(range(ACCOUNTS), 2)
        transfer(connection, number, source, target, chance.randrange(100))
        if number % 100 == 0:
            check(connection, number)
        time.sleep(0.001)
    check(connection, number)
    expect(number > 100, f"only {number} transactions were made")
    connection.close()
    report("PASS")


try:
    main()
except Exception as error:  # whatever it is, the verdict must be there
    report(f"FAIL: {type(error).__name__}: {error}")
    raise
