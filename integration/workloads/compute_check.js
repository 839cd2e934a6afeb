// A node program that computes and checks itself while it is moved: code that is compiled as it
// gets hot, hashes, big integers, objects that come and go, worker threads and timers.
//   node compute_check.js STATUS-FILE STOP-FILE
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const { Worker } = require('worker_threads');

const [status, stop] = process.argv.slice(2);
const report = (line) => fs.appendFileSync(status, line + '\n');

function expect(condition, story) {
  if (condition) return;
  report('FAIL: ' + story);
  process.exit(1);
}
process.on('uncaughtException', (error) => expect(false, String(error.stack).split('\n').join(' ')));

// Runs hot: compiled anew when it is seen with other types.
function mixed(value, rounds) {
  let state = value | 0;
  for (let i = 0; i < rounds; ++i) {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + i | 0;
  }
  return state >>> 0;
}
const MIXED = mixed(7, 100000);

function sumOfFloats(count) {
  let sum = 0;
  for (let i = 0; i < count; ++i) sum += i * 0.5;
  return sum;
}

class Chain {
  constructor() {
    this.start = this.state = crypto.createHash('sha256').update('godwit').digest();
    this.links = 0;
  }
  static after(state, links) {
    for (let i = 0; i < links; ++i) state = crypto.createHash('sha256').update(state).digest();
    return state;
  }
  turn() {
    this.state = Chain.after(this.state, 200);
    this.links += 200;
    if (this.links < 10000) return;
    expect(Chain.after(this.start, this.links).equals(this.state), 'the chain of hashes differs');
    this.start = this.state;
    this.links = 0;
  }
}

class Objects {
  constructor() {
    this.kept = new Map();
    this.count = 0;
  }
  turn() {
    for (let i = 0; i < 200; ++i) {
      const number = ++this.count;
      this.kept.set(number, { text: String(number).repeat(20), list: Array.from({ length: number % 50 }, (_, n) => n) });
      const old = this.kept.get(number - 5000);
      if (!old) continue;
      this.kept.delete(number - 5000);
      expect(old.text === String(number - 5000).repeat(20), 'the text of an object is wrong');
      expect(old.list.length === (number - 5000) % 50, 'the list of an object is wrong');
    }
  }
}

// x^65 by squaring and by steps.
function checkPower(base, modulus) {
  let steps = 1n;
  for (let i = 0; i < 65; ++i) steps = steps * base % modulus;
  let squares = base % modulus;
  for (let i = 0; i < 6; ++i) squares = squares * squares % modulus;
  expect(steps === squares * base % modulus, 'a power is wrong');
}

// Answers with what it was asked, computed on a thread of its own.
class Helper {
  constructor() {
    this.worker = new Worker(`
      const { parentPort } = require('worker_threads');
      ${mixed.toString()}
      parentPort.on('message', (value) => parentPort.postMessage([value, mixed(value, 1000)]));
    `, { eval: true });
    this.answers = this.asked = 0;
    this.worker.on('message', ([value, result]) => {
      expect(value === this.answers++, 'an answer of a worker is lost or came twice');
      expect(result === mixed(value, 1000), 'an answer of a worker is wrong');
    });
    this.worker.on('error', (error) => expect(false, 'a worker died: ' + error));
  }
  turn() {
    expect(this.asked - this.answers < 100000, 'a worker does not answer');
    this.worker.postMessage(this.asked++);
  }
}

function main() {
  const parts = [new Chain(), new Objects(), new Helper(), new Helper()];
  const id = process.pid;
  let last = process.hrtime.bigint();
  let turns = 0;
  let digests = 0;
  const turn = () => {
    for (const part of parts) part.turn();
    expect(mixed(7, 100000) === MIXED, 'integers are computed wrongly');
    expect(sumOfFloats(1000) === 249750, 'floats are added wrongly');
    checkPower(BigInt('0x' + crypto.randomBytes(40).toString('hex')), (1n << 255n) - 19n);
    // On libuv's own threads.
    const salt = String(turns++ % 16);
    crypto.pbkdf2('godwit', salt, 10, 32, 'sha256', (error, key) => {
      expect(!error && key.equals(crypto.pbkdf2Sync('godwit', salt, 10, 32, 'sha256')), 'a key is wrong');
      ++digests;
    });
    const now = process.hrtime.bigint();
    expect(now >= last && now - last < 60_000_000_000n, 'the monotonic clock leapt');
    expect(process.pid === id, 'the process id changed');
    last = now;
    if (!fs.existsSync(stop)) {
      setTimeout(turn, 2);
      return;
    }
    expect(turns < 100 || digests > turns / 2, 'the pool of threads stands still');
    for (const part of parts) expect(!part.asked || part.answers > 0, 'a worker never answered');
    report('PASS');
    process.exit(0);
  };
  report('READY');
  turn();
}

main();
