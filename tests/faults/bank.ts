/**
 * A bank on three safekeepers, and what must hold of it whoever is killed, stopped, restarted or fenced meanwhile.
 *
 * Tellers transfer money between accounts: one transaction changes two balances and writes down the transfer. Auditors read the sum of all
 * balances all the time. Faults strike real processes through signals and the command line, as an operator would; a seed draws them.
 *
 * Checked
 * - at every read the sum is what it was in the beginning
 * - at the end every transfer that was acknowledged is there, none is there that was not asked for, and every balance is what the transfers
 *   that are there make of it: none was applied twice, or half
 * - after every fault transfers go on
 *
 * Only modelled: the machine goes on, so what was written to files but not synced is not lost (tests/simulation attacks that).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import { messageOf } from '../../engine/errors.ts';
import { runningPid } from '../../server/process/pid-file.ts';
import type { RepositoryRig, RigProcess } from '../support/repository-rig.ts';
import { SeededRandom } from '../support/seeded-random.ts';

export interface BankOptions {
  /** Started, with `safekeeperCount` safekeepers and an endpoint `main`. */
  readonly rig: RepositoryRig;
  readonly safekeeperCount: number;
  readonly seed: number;
  readonly faultCount: number;
  readonly say: (text: string) => void;
}

export interface BankReport {
  readonly acknowledged: number;
  /** Whose connection was lost before an answer came: they may have happened or not. */
  readonly unknown: number;
  readonly reads: number;
  readonly faults: Record<string, number>;
  /** What did not hold; empty if all did. */
  readonly violations: string[];
}

const accountCount = 20;
const balanceAtStart = 1000;
const tellerCount = 3;
/** Transfers that have to be acknowledged after a fault before the next. */
const progressCount = 10;
/** Longer than any fault takes to be repaired, many times over. */
const progressTimeoutMs = 90_000;

export async function runBank(options: BankOptions): Promise<BankReport> {
  const { rig, say } = options;
  const accounts = `insert into account select id, ${balanceAtStart} from generate_series(0, ${accountCount - 1}) id`;
  await rig.sql('main', `create table account(id int primary key, balance int not null); ${accounts}`);
  await rig.sql('main', 'create table transfer(id int primary key, payer int, payee int, amount int)');
  const bank = new Bank(options);
  const faults = new Faults(options);
  bank.open();
  try {
    for (let i = 1; i <= options.faultCount && bank.violations.length === 0; i++) {
      await bank.progress(1 + faults.random.below(progressCount));
      const what = await faults.strike();
      say(`${i}/${options.faultCount} ${what}; ${bank.acknowledged.size} transfers, ${bank.reads} reads`);
      await bank.progress(progressCount);
    }
  } finally {
    await faults.repairAll();
    await bank.close();
  }
  if (bank.violations.length === 0) {
    await bank.check();
    // And by a compute and a pageserver that start with nothing in memory.
    await rig.ok('stop', '--mode', 'immediate');
    await rig.ok('start');
    await rig.ok('endpoint', 'start', 'main');
    await bank.check();
  }
  return {
    acknowledged: bank.acknowledged.size,
    unknown: bank.unknown.size,
    reads: bank.reads,
    faults: Object.fromEntries(faults.counts),
    violations: bank.violations,
  };
}

interface Transfer {
  readonly payer: number;
  readonly payee: number;
  readonly amount: number;
}

/** Errors that a fault may bring to a client; all else is a violation. `57P03`: starting up; no code: the connection is gone. */
const faultError = /^(57P0\d|08\d\d\d|ECONNRESET|ECONNREFUSED|EPIPE|undefined)$/;

class Bank {
  readonly acknowledged = new Map<number, Transfer>();
  readonly unknown = new Map<number, Transfer>();
  readonly violations: string[] = [];
  reads = 0;
  readonly #rig: RepositoryRig;
  readonly #random: SeededRandom;
  #running: Promise<void>[] = [];
  #closed = false;
  #next = 0;

  constructor({ rig, seed }: BankOptions) {
    this.#rig = rig;
    this.#random = new SeededRandom(seed + 1);
  }

  open(): void {
    const tellers = Array.from({ length: tellerCount }, () => this.#keepWorking((client) => this.#transfer(client)));
    this.#running = [...tellers, this.#keepWorking((client) => this.#audit(client))];
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#running);
  }

  /** Resolves when `count` more transfers are acknowledged, or something does not hold. */
  async progress(count: number): Promise<void> {
    const target = this.acknowledged.size + count;
    const giveUpAt = Date.now() + progressTimeoutMs;
    while (this.acknowledged.size < target && this.violations.length === 0) {
      if (Date.now() > giveUpAt) {
        this.violations.push(`no ${count} transfers in ${progressTimeoutMs / 1000} s\n${this.#rig.logs()}`);
      }
      await sleep(5);
    }
  }

  async check(): Promise<void> {
    const rows = await this.#rig.sql<Transfer & { id: number }>(
      'main',
      'select id, payer, payee, amount from transfer',
    );
    const there = new Set(rows.map(({ id }) => id));
    const lost = [...this.acknowledged.keys()].filter((id) => !there.has(id));
    if (lost.length > 0)
      this.violations.push(`${lost.length} acknowledged transfers are lost, the first is ${lost[0]}`);
    const balances = new Array<number>(accountCount).fill(balanceAtStart);
    for (const { id, payer, payee, amount } of rows) {
      const asked = this.acknowledged.get(id) ?? this.unknown.get(id);
      if (asked?.payer !== payer || asked.payee !== payee || asked.amount !== amount) {
        this.violations.push(`transfer ${id} is not what was asked for`);
      }
      balances[payer]! -= amount;
      balances[payee]! += amount;
    }
    const accounts = await this.#rig.sql<{ id: number; balance: number }>('main', 'select * from account order by id');
    const told = accounts.map(({ balance }) => balance).join();
    if (told !== balances.join()) this.violations.push(`balances are ${told}, the transfers make ${balances.join()}`);
  }

  /** Does one thing after the other, on a new connection whenever one is lost. */
  async #keepWorking(work: (client: Client) => Promise<void>): Promise<void> {
    while (!this.#closed && this.violations.length === 0) {
      let client: Client | null = null;
      try {
        client = await this.#rig.connect('main');
        while (!this.#closed && this.violations.length === 0) await work(client);
      } catch (error) {
        const code = String((error as { code?: string }).code);
        if (!faultError.test(code)) {
          this.violations.push(`a client got ${code}: ${messageOf(error)}\n${this.#rig.logs()}`);
        }
        await sleep(20);
      }
      await client?.end().catch(() => {});
    }
  }

  async #transfer(client: Client): Promise<void> {
    const id = this.#next++;
    const payer = this.#random.below(accountCount);
    const payee = (payer + 1 + this.#random.below(accountCount - 1)) % accountCount;
    const transfer = { payer, payee, amount: 1 + this.#random.below(50) };
    this.unknown.set(id, transfer);
    await client.query(
      `begin;
       update account set balance = balance - ${transfer.amount} where id = ${payer};
       update account set balance = balance + ${transfer.amount} where id = ${payee};
       insert into transfer values (${id}, ${payer}, ${payee}, ${transfer.amount});
       commit`,
    );
    this.unknown.delete(id);
    this.acknowledged.set(id, transfer);
  }

  async #audit(client: Client): Promise<void> {
    const { rows } = await client.query<{ sum: number; count: number }>(
      'select sum(balance)::int as sum, count(*)::int as count from account',
    );
    this.reads++;
    const { sum, count } = rows[0]!;
    if (sum !== accountCount * balanceAtStart || count !== accountCount) {
      this.violations.push(`read ${this.reads} finds ${sum} on ${count} accounts`);
    }
    await sleep(10);
  }
}

/** Who can be struck, and how it is started again. */
interface Target {
  readonly name: string;
  readonly process: RigProcess;
  readonly start: readonly string[];
  readonly stop: readonly string[];
}

class Faults {
  readonly random: SeededRandom;
  readonly counts = new Map<string, number>();
  readonly #rig: RepositoryRig;
  readonly #safekeepers: readonly Target[];
  readonly #pageserver: Target = target('pageserver', 'pageserver', 'pageserver');
  readonly #compute: Target = target('compute', { endpoint: 'main' }, 'endpoint', 'main');
  /** Stopped by SIGSTOP, and going on by themselves after a while. */
  readonly #paused = new Set<number>();

  constructor({ rig, seed, safekeeperCount }: BankOptions) {
    this.#rig = rig;
    this.random = new SeededRandom(seed);
    this.#safekeepers = Array.from({ length: safekeeperCount }, (_, i) =>
      target(`safekeeper ${i + 1}`, { safekeeper: i + 1 }, 'safekeeper', String(i + 1)),
    );
  }

  /** One fault; what is down is started again before it resolves, what is paused goes on some time after. */
  async strike(): Promise<string> {
    const { random } = this;
    const safekeeper = random.pick(this.#safekeepers);
    const one = random.pick([safekeeper, safekeeper, this.#pageserver, this.#compute]);
    switch (random.below(8)) {
      case 0:
      case 1:
      case 2:
        return this.#kill([one]);
      case 3:
      case 4:
        return this.#pause([one]);
      case 5:
        return this.#restart(one);
      case 6: {
        // No quorum is left, for a while.
        const others = this.#safekeepers.filter((other) => other !== safekeeper);
        return random.chance(0.5) ? this.#kill(others) : this.#pause(others);
      }
      default:
        return random.chance(0.5) ? this.#fence() : this.#kill([safekeeper, this.#pageserver, this.#compute]);
    }
  }

  async repairAll(): Promise<void> {
    for (const pid of this.#paused) signal(pid, 'SIGCONT');
    this.#paused.clear();
    for (const one of [...this.#safekeepers, this.#pageserver, this.#compute]) await this.#start(one);
  }

  async #kill(targets: readonly Target[]): Promise<string> {
    for (const { process } of targets) {
      const pid = this.#pid(process);
      if (pid !== null) signal(pid, 'SIGKILL');
    }
    // Ends soon, but not at once.
    for (const { process } of targets) while (this.#pid(process) !== null) await sleep(5);
    const awayMs = this.random.chance(0.5) ? 0 : this.random.below(1500);
    await sleep(awayMs);
    for (const one of targets) await this.#start(one);
    return this.#count('kill -9', targets, `back after ${awayMs} ms`);
  }

  async #pause(targets: readonly Target[]): Promise<string> {
    const pauseMs = 50 + this.random.below(3000);
    for (const { process } of targets) {
      const pid = this.#pid(process);
      if (pid === null) continue;
      signal(pid, 'SIGSTOP');
      this.#paused.add(pid);
      setTimeout(() => {
        signal(pid, 'SIGCONT');
        this.#paused.delete(pid);
      }, pauseMs);
    }
    return this.#count('SIGSTOP', targets, `for ${pauseMs} ms`);
  }

  async #restart(one: Target): Promise<string> {
    for (const pid of this.#paused) signal(pid, 'SIGCONT');
    if (this.#pid(one.process) !== null) await this.#rig.runHere(...one.stop);
    await this.#start(one);
    return this.#count('restart', [one]);
  }

  /** Another compute takes the branch over while the bank's still writes to it; then the bank's takes it back. */
  async #fence(): Promise<string> {
    await this.#untilDone(['endpoint', 'start', 'rival', '--branch-name', 'main', '--allow-multiple']);
    await this.#untilDone(['endpoint', 'stop', 'rival', '--destroy', '--mode', 'immediate']);
    await this.#start(this.#compute);
    return this.#count('rival', [this.#compute]);
  }

  async #start({ process, start }: Target): Promise<void> {
    if (this.#pid(process) === null) await this.#untilDone(start, () => this.#pid(process) !== null);
  }

  /** Another process that is paused or just coming up may be in the way for a moment. */
  async #untilDone(command: readonly string[], isDone: () => boolean = () => false): Promise<void> {
    const giveUpAt = Date.now() + progressTimeoutMs;
    for (;;) {
      const { code, out, err } = await this.#rig.runHere(...command);
      if (code === 0 || isDone()) return;
      if (Date.now() > giveUpAt) throw new Error(`pagelite ${command.join(' ')}: ${err}${out}\n${this.#rig.logs()}`);
      await sleep(100);
    }
  }

  #pid(process: RigProcess): number | null {
    return runningPid(this.#rig.pidFile(process));
  }

  #count(kind: string, targets: readonly Target[], detail = ''): string {
    const names = targets.map(({ name }) => name).join(', ');
    const key = `${kind} ${targets.map(({ name }) => name.split(' ')[0]).join('+')}`;
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
    return `${kind} ${names} ${detail}`.trim();
  }
}

function target(name: string, process: RigProcess, ...command: string[]): Target {
  const [what, ...which] = command;
  return { name, process, start: [what!, 'start', ...which], stop: [what!, 'stop', ...which] };
}

/** A process that ended meanwhile needs no signal. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
