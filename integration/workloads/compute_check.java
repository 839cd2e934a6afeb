// A JVM program that computes and checks itself while it is moved: code that is compiled as it gets
// hot, hashes, big integers, garbage, threads behind queues, locks and waits with a timeout.
//   java compute_check.java STATUS-FILE STOP-FILE
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

class ComputeCheck {
  private static Path status;

  static synchronized void report(String line) throws Exception {
    Files.writeString(status, line + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
  }

  static void expect(boolean condition, String story) throws Exception {
    if (condition) return;
    report("FAIL: " + story);
    Runtime.getRuntime().halt(1);
  }

  interface Part {
    void turn() throws Exception;
  }

  /** Every link is made of the one before; the chain is computed again now and then. */
  static class Chain implements Part {
    private final MessageDigest digest = MessageDigest.getInstance("SHA-256");
    private byte[] start = "godwit".getBytes(StandardCharsets.US_ASCII);
    private byte[] state = start;
    private int links;

    Chain() throws Exception {}

    private byte[] after(byte[] from, int count) {
      for (int i = 0; i < count; ++i) from = digest.digest(from);
      return from;
    }

    public void turn() throws Exception {
      state = after(state, 500);
      links += 500;
      if (links < 50_000) return;
      expect(Arrays.equals(after(start, links), state), "the chain of hashes differs");
      start = state;
      links = 0;
    }
  }

  /** A power by steps and by the library; twin generators; sums of floats. */
  static class Numbers implements Part {
    private final Random random = new Random(7);
    private final Random twin = new Random(7);
    private static final BigInteger EXPONENT = BigInteger.valueOf(65);

    public void turn() throws Exception {
      BigInteger base = new BigInteger(512, random);
      BigInteger modulus = new BigInteger(512, random).setBit(0);
      expect(base.equals(new BigInteger(512, twin)), "the twin generators differ");
      expect(modulus.equals(new BigInteger(512, twin).setBit(0)), "the twin generators differ");
      BigInteger power = BigInteger.ONE;
      for (int i = 0; i < 65; ++i) power = power.multiply(base).mod(modulus);
      expect(power.equals(base.modPow(EXPONENT, modulus)), "a power is wrong");
      double sum = 0;
      for (int i = 0; i < 20_000; ++i) sum += i * 0.5;
      expect(sum == 99_995_000.0, "floats are added wrongly: " + sum);
    }
  }

  /** Objects that are made and forgotten: the collector works all the time. */
  static class Objects implements Part {
    private static final int KEPT = 20_000;
    private final Map<Integer, List<String>> kept = new HashMap<>();
    private int count;

    private static List<String> make(int number) {
      List<String> list = new ArrayList<>();
      for (int i = 0; i < number % 20; ++i) list.add(number + "/" + i);
      return list;
    }

    public void turn() throws Exception {
      for (int i = 0; i < 500; ++i) {
        kept.put(++count, make(count));
        List<String> old = kept.remove(count - KEPT);
        if (old != null) expect(old.equals(make(count - KEPT)), "an object is wrong");
      }
    }
  }

  /** Workers that send back what they got. */
  static class Workers implements Part {
    private final ExecutorService pool = Executors.newFixedThreadPool(4, work -> {
      Thread thread = new Thread(work);
      thread.setDaemon(true);
      return thread;
    });
    private long number;

    public void turn() throws Exception {
      List<Future<Long>> answers = new ArrayList<>();
      for (int i = 0; i < 10; ++i) {
        long asked = number + i;
        answers.add(pool.submit(() -> asked * asked));
      }
      for (Future<Long> answer : answers) {
        expect(answer.get(30, TimeUnit.SECONDS) == number * number, "an answer is wrong");
        ++number;
      }
    }
  }

  /** A thread that only waits with a timeout, which must neither come early nor never. */
  static class Waits implements Part {
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition never = lock.newCondition();
    private volatile long waited;
    private long seen;
    private int turns;

    Waits() {
      Thread thread = new Thread(this::work);
      thread.setDaemon(true);
      thread.start();
    }

    private void work() {
      try {
        lock.lock();
        for (;;) {
          long began = System.nanoTime();
          boolean woken = never.await(20, TimeUnit.MILLISECONDS);
          long took = System.nanoTime() - began;
          expect(woken || took >= 20_000_000, "a timeout came early: " + took + " ns");
          ++waited;
        }
      } catch (Exception error) {
        throw new RuntimeException(error);
      }
    }

    public void turn() throws Exception {
      if (++turns % 500 != 0) return;
      expect(waited > seen, "a timeout never came");
      seen = waited;
    }
  }

  public static void main(String[] arguments) throws Exception {
    status = Path.of(arguments[0]);
    Path stop = Path.of(arguments[1]);
    Thread.setDefaultUncaughtExceptionHandler((thread, error) -> {
      try {
        expect(false, thread + ": " + error);
      } catch (Exception ignored) {
        Runtime.getRuntime().halt(2);
      }
    });
    List<Part> parts =
        List.of(new Chain(), new Numbers(), new Objects(), new Workers(), new Waits());
    long id = ProcessHandle.current().pid();
    long last = System.nanoTime();
    report("READY");
    while (!Files.exists(stop)) {
      for (Part part : parts) part.turn();
      long now = System.nanoTime();
      expect(now >= last && now - last < 60_000_000_000L, "the monotonic clock leapt");
      expect(ProcessHandle.current().pid() == id, "the process id changed");
      last = now;
      Thread.sleep(2);
    }
    report("PASS");
    System.exit(0);
  }
}
