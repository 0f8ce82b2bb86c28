/** What the attacks on a safekeeper share (hostile-messages.ts, hostile-readers.ts): conversations to change, and how to tell that something did not hold. */
import { isPageliteError, type PageliteError } from '../../engine/errors.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import { type NodeId, newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { ControlState } from '../../engine/safekeeper/control-file.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { SafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { Channel, WalService } from '../../engine/services.ts';
import { nodeClock, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import type { SeededRandom } from '../support/seeded-random.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { LeanStorage } from './lean-storage.ts';

/** What came of the attempts. */
export interface AttackReport {
  /** Messages that ended their connection, by the kind of the error. */
  readonly refused: Record<string, number>;
  /** Attempts in which no message was. */
  taken: number;
  /** Proposers that went on afterwards. */
  elected: number;
}

const nodeId = 1 as NodeId;
export const startLsn = (walSegmentSize + 40) as Lsn;
/** The names with which a connection may end. */
const endings = ['invalid', 'corrupt', 'fenced', 'notFound'] as const;
const configuration = configurationOf(1, [nodeId]);
/** All WAL of a recorded conversation, and some zeros behind. */
export const storedBytes = 24 * 1024;

/** One connection's messages. */
export type Script = readonly Uint8Array[];

export interface Recording {
  readonly victim: TenantTimelineId;
  /** Two proposers of the victim, one after the other. */
  readonly scripts: readonly Script[];
  /** Other proposers of the same timeline, in a world in which these two never were. */
  readonly fork: readonly Script[];
  /** A proposer of another tenant's timeline. */
  readonly stranger: Script;
  readonly strangerId: TenantTimelineId;
}

export async function recordConversations(random: SeededRandom): Promise<Recording> {
  const newId = () => ({ tenantId: newTenantId(random), timelineId: newTimelineId(random) });
  const [victim, strangerId] = [newId(), newId()];
  return {
    victim,
    strangerId,
    scripts: await converse(victim, random, [
      [100, 4000, 30],
      [700, 5000, 60],
    ]),
    fork: await converse(victim, random, [[300], [2000, 500], [90]]),
    stranger: (await converse(strangerId, random, [[200, 300]]))[0]!,
  };
}

/** For each proposer the sizes of its records; what it sent. */
async function converse(
  id: TenantTimelineId,
  random: SeededRandom,
  proposers: readonly (readonly number[])[],
): Promise<Script[]> {
  const safekeeper = new Safekeeper({ nodeId, storage: new LeanStorage(), log: silentLog });
  const scripts: Script[] = [];
  for (const sizes of proposers) {
    const sent: Uint8Array[] = [];
    scripts.push(sent);
    const driver = await elect(id, random, { ...serviceOf(safekeeper), connectProposer: () => tapped(sent) });
    const wal = SyntheticWal.afterBoot(driver.startLsn);
    for (const size of sizes) {
      const payload = new Uint8Array(size);
      random.fill(payload);
      const record = wal.next(payload);
      // A long record in two parts.
      const cut = size > 1000 ? random.below(record.bytes.length) : record.bytes.length;
      driver.append(record.startLsn, record.bytes.slice(0, cut));
      if (cut < record.bytes.length) driver.append((record.startLsn + cut) as Lsn, record.bytes.slice(cut));
      await driver.waitCommit(record.endLsn);
      await turn();
    }
    driver.close();
    await turn();
  }
  return scripts;

  function tapped(sent: Uint8Array[]): Channel {
    const channel = safekeeper.connectProposer(id);
    const send = channel.send.bind(channel);
    channel.send = (message) => {
      sent.push(message.slice());
      send(message);
    };
    return channel;
  }
}

/** What is thrown where nobody can catch it. */
export const outside = {
  errors: [] as unknown[],
  async watch(work: () => Promise<void>): Promise<void> {
    const note = (error: unknown) => outside.errors.push(error);
    process.on('unhandledRejection', note);
    process.on('uncaughtException', note);
    try {
      await work();
    } finally {
      process.off('unhandledRejection', note);
      process.off('uncaughtException', note);
    }
  },
  check(): void {
    if (outside.errors.length > 0) throw outside.errors.shift();
  },
};

/** What it logs as an error is one: a timeline that stopped comes back by itself, and nobody would notice. */
export function newSafekeeper(storage: SafekeeperStorage): Safekeeper {
  const error = (text: string, data?: object) =>
    void outside.errors.push(new Error(`${text}: ${JSON.stringify(data)}`));
  return new Safekeeper({ nodeId, storage, log: { ...silentLog, error } });
}

export function serviceOf(safekeeper: Safekeeper): WalService {
  return {
    nodeId,
    connectProposer: (id) => safekeeper.connectProposer(id),
    readWal: (...args) => safekeeper.readWal(...args),
    getStatus: (id) => safekeeper.getStatus(id),
    reportConsistent: (...args) => safekeeper.reportConsistent(...args),
  };
}

export function elect(
  id: TenantTimelineId,
  random: SeededRandom,
  service: WalService,
  known: Pick<ControlState, 'systemIdentifier' | 'configuration'> | null = null,
): Promise<ProposerDriver> {
  const election = ProposerDriver.elect({
    id,
    services: [service],
    startLsnIfEmpty: startLsn,
    systemIdentifier: known?.systemIdentifier ?? syntheticSystemIdentifier,
    configuration: known?.configuration ?? configuration,
    clock: nodeClock,
    random,
    log: silentLog,
  });
  return soon(election, 'the election');
}

/** All that goes on without a clock or a disk has happened. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What needs no time at all, on a machine that is busy with others. */
const soonMs = 20_000;

export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} does not come`)), soonMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** The safekeeper ended a connection. */
export function checkEnding(error: unknown, told: PageliteError | null): asserts error is PageliteError {
  check(isPageliteError(error), `a connection ended with ${error}`);
  check(
    endings.some((kind) => kind === error.kind),
    `a connection ended as ${error.kind}: ${error.message}`,
  );
  check(told?.kind === error.kind, 'the peer is not told why');
}
