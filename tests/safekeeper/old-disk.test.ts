/**
 * A safekeeper whose disk is put back to an older state, as from the wrong backup: it has forgotten what it acknowledged and promised. So none answers proposers
 * at its start before it has caught up with the others, and nothing that was acknowledged is lost; where one of those is away, their memory of it tells.
 *
 * Real: safekeepers, proposers, files.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { walSegmentSize } from '../../engine/limits.ts';
import { configurationOf } from '../../engine/model/configuration.ts';
import { type NodeId, newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { decodeAcceptorMessage, encodeProposerMessage } from '../../engine/protocol/proposer-acceptor.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { SafekeeperUpkeep } from '../../engine/safekeeper/upkeep.ts';
import type { SafekeeperPeer, WalService } from '../../engine/services.ts';
import { DiskSafekeeperStorage } from '../../server/safekeeper/disk-segments.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { hostClock, hostRandom, silentLog } from '../support/any-host.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { away } from './away.ts';
import { sampleProposerMessages } from './samples.ts';

const beginLsn = (walSegmentSize + 0x28) as Lsn;
const id = { tenantId: newTenantId(hostRandom), timelineId: newTimelineId(hostRandom) };
const configuration = configurationOf(
  1,
  [1, 2, 3].map((node) => node as NodeId),
);
const refused = { kind: 'error', error: { kind: 'unavailable', data: { oldDisk: true } } };

let folder: string;
let nodes: (Safekeeper | null)[];
let upkeeps: (SafekeeperUpkeep | null)[];
/** Of those that began with peers. */
let logged: string[];
const note = (message: string) => void logged.push(message);
const log = { debug: () => {}, info: () => {}, warn: note, error: note };
const noticed = () => logged.filter((message) => message.includes('older than what it has shown')).length;

const dir = (i: number) => join(folder, `${i}`);

function open(i: number): void {
  nodes[i] = new Safekeeper({
    nodeId: (i + 1) as NodeId,
    storage: new DiskSafekeeperStorage(dir(i)),
    log: silentLog,
  });
}

const othersThan = (i: number) =>
  nodes.filter((node, other) => node !== null && other !== i) as readonly SafekeeperPeer[];

async function close(i: number): Promise<void> {
  await upkeeps[i]?.close();
  upkeeps[i] = null;
  await nodes[i]!.close();
  nodes[i] = null;
}

/** A process of its own begins: proposers are answered when it has what its peers have. */
function start(i: number, peers = othersThan(i)): void {
  open(i);
  upkeeps[i] = new SafekeeperUpkeep({ safekeeper: nodes[i]!, peers, backup: null, clock: hostClock, log });
  upkeeps[i]!.start();
}

async function restart(i: number): Promise<void> {
  await close(i);
  start(i);
}

/** Their part in a round, as they know the others now. */
async function round(...those: number[]): Promise<void> {
  for (const i of those) {
    const safekeeper = nodes[i]!;
    const upkeep = new SafekeeperUpkeep({
      safekeeper,
      peers: othersThan(i),
      backup: null,
      clock: hostClock,
      log: silentLog,
    });
    await upkeep.round();
    await upkeep.idle();
  }
}

const elect = (services: readonly WalService[]) =>
  ProposerDriver.elect({
    id,
    services,
    startLsnIfEmpty: beginLsn,
    systemIdentifier: syntheticSystemIdentifier,
    configuration,
    clock: hostClock,
    random: hostRandom,
    log: silentLog,
  });

/** A compute that reaches those; its WAL is committed, and all of them know that. */
async function write(...reached: number[]): Promise<Lsn> {
  const driver = await elect(reached.map((i) => nodes[i]!));
  const wal = SyntheticWal.afterBoot(driver.startLsn);
  for (let i = 0; i < 10; i++) {
    const { startLsn, bytes } = wal.next(new Uint8Array(5000).fill(i));
    driver.append(startLsn, bytes);
  }
  await driver.waitCommit(wal.endLsn);
  for (const i of reached) {
    await expect.poll(async () => (await nodes[i]!.getStatus(id))?.commitLsn).toBe(wal.endLsn);
  }
  driver.close();
  return wal.endLsn;
}

/** A proposer's first message. */
function greeting(): Uint8Array {
  const [sample] = sampleProposerMessages;
  if (sample?.kind !== 'proposerGreeting') throw new Error('the first sample is a greeting');
  return encodeProposerMessage({
    ...sample,
    timeline: id,
    systemIdentifier: syntheticSystemIdentifier,
    configuration,
  });
}

/** What a proposer hears when it says hello. */
async function greet(i: number) {
  const channel = nodes[i]!.connectProposer(id);
  const answer = new Promise<Uint8Array>((resolve) => channel.onMessage(resolve));
  channel.send(greeting());
  const message = decodeAcceptorMessage(await answer);
  channel.close();
  return message.kind === 'error' ? { kind: 'error', error: message.error.toJSON() } : message;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'pagelite-old-disk-'));
  logged = [];
  nodes = [null, null, null];
  upkeeps = [null, null, null];
  for (const i of nodes.keys()) open(i);
});

afterEach(async () => {
  for (const [i, node] of nodes.entries()) if (node !== null) await close(i);
  rmSync(folder, { recursive: true });
});

/** The third is as it was before the second compute, which the others were told of by `look`. */
async function putBack(look = () => round(0, 1)): Promise<Lsn> {
  await write(0, 1, 2);
  await close(2);
  cpSync(dir(2), join(folder, 'copy'), { recursive: true });
  open(2);
  const endLsn = await write(0, 1, 2);
  await look();
  await close(2);
  rmSync(dir(2), { recursive: true });
  cpSync(join(folder, 'copy'), dir(2), { recursive: true });
  return endLsn;
}

it('answers proposers when it has caught up with all others', async () => {
  const endLsn = await putBack();
  start(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  expect(noticed()).toBe(1);
  const [first, third] = [await nodes[0]!.getStatus(id), await nodes[2]!.getStatus(id)];
  expect(third).toMatchObject({ flushLsn: endLsn, termHistory: first!.termHistory });
  expect(third!.term).toBeGreaterThanOrEqual(first!.term);
  // With it a compute goes on where the last one ended.
  await close(0);
  expect(await write(1, 2)).toBeGreaterThan(endLsn);
});

it('has what the others have, also where nobody remembers that it had it', async () => {
  const endLsn = await putBack(async () => {});
  start(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  expect(await nodes[2]!.getStatus(id)).toMatchObject({ flushLsn: endLsn });
  expect(noticed()).toBe(0);
});

it('does not answer proposers while another is away', async () => {
  await putBack();
  await close(0);
  start(2, [nodes[1]!, away(1 as NodeId)]);
  expect(await greet(2)).toMatchObject(refused);
  for (let i = 0; i < 3; i++) {
    await upkeeps[2]!.round();
    await upkeeps[2]!.idle();
  }
  expect((await nodes[2]!.getStatus(id))!.flushLsn).toBe((await nodes[1]!.getStatus(id))!.flushLsn);
  expect(await greet(2)).toMatchObject(refused);
});

it('is remembered by others that have begun anew since', async () => {
  await putBack();
  for (const i of [0, 1]) {
    await close(i);
    open(i);
  }
  start(2, [nodes[1]!, away(1 as NodeId)]);
  expect(await greet(2)).toMatchObject(refused);
});

it('is none if nothing was shown after the copy', async () => {
  await write(0, 1, 2);
  await round(0, 1, 2);
  await restart(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  expect(logged).toEqual([]);
});

it('a disk that is empty is the oldest of all', async () => {
  const endLsn = await putBack();
  rmSync(dir(2), { recursive: true });
  start(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  expect((await nodes[2]!.getStatus(id))!.flushLsn).toBe(endLsn);
});

it('is told by a peer that was away at its start: proposers that it has answered since are ended', async () => {
  await putBack();
  let first: SafekeeperPeer = away(1 as NodeId);
  const late: SafekeeperPeer = {
    ...first,
    introduce: (...args) => first.introduce(...args),
    recall: (node) => first.recall(node),
    describeTimelines: () => first.describeTimelines(),
  };
  start(2, [late, away(2 as NodeId)]);
  const channel = nodes[2]!.connectProposer(id);
  const kinds: string[] = [];
  const ended = new Promise((resolve) => channel.onClose(resolve));
  channel.onMessage((bytes) => kinds.push(decodeAcceptorMessage(bytes).kind));
  channel.send(greeting());
  await expect.poll(() => kinds, { timeout: 5000 }).toEqual(['acceptorGreeting']);
  first = nodes[0]!;
  await upkeeps[2]!.round();
  await ended;
  expect(kinds).toEqual(['acceptorGreeting', 'error']);
  expect(await greet(2)).toMatchObject(refused);
});

/** What is sent there waits as long as it is blocked. */
function guarded(i: number, blocked: ReadonlySet<number>): WalService {
  const connectProposer: WalService['connectProposer'] = (timeline) => {
    const channel = nodes[i]!.connectProposer(timeline);
    const held: Uint8Array[] = [];
    const passing = setInterval(() => {
      if (!blocked.has(i)) for (const message of held.splice(0)) channel.send(message);
    }, 5);
    return {
      bufferedBytes: 0,
      send: (message) => void held.push(message),
      onMessage: (handler) => channel.onMessage(handler),
      onClose: (handler) =>
        channel.onClose((error) => {
          clearInterval(passing);
          handler(error);
        }),
      close: (error) => channel.close(error),
    };
  };
  return { ...away((i + 1) as NodeId), connectProposer };
}

it('what it acknowledged before does not count together with one who knows that it has begun anew', async () => {
  await write(0, 1, 2);
  for (const i of nodes.keys()) await restart(i);
  const blocked = new Set<number>();
  const driver = await elect(nodes.map((_, i) => guarded(i, blocked)));
  const wal = SyntheticWal.afterBoot(driver.startLsn);
  const { startLsn, bytes, endLsn } = wal.next(new Uint8Array(100));
  const flushLsnOf = async (i: number) => (await nodes[i]!.getStatus(id))?.flushLsn;
  // The third alone has it.
  blocked.add(0).add(1);
  driver.append(startLsn, bytes);
  await expect.poll(() => flushLsnOf(2)).toBe(endLsn);
  blocked.add(2);
  await restart(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  // Then the second has it, too. (The first would be enough with it, but does not get it.)
  blocked.delete(1);
  await expect.poll(() => flushLsnOf(1), { timeout: 20_000 }).toBe(endLsn);
  // Its answer has been heard when it has been told of another record.
  const next = wal.next(new Uint8Array(100));
  driver.append(next.startLsn, next.bytes);
  await expect.poll(() => flushLsnOf(1), { timeout: 20_000 }).toBe(next.endLsn);
  expect(driver.commitLsn).toBeLessThan(endLsn);
  blocked.delete(2);
  await driver.waitCommit(next.endLsn);
  driver.close();
}, 60_000);

it('answers at its start though a peer never does', async () => {
  await write(0, 1, 2);
  await close(2);
  start(2, [{ ...away(1 as NodeId), introduce: () => new Promise<never>(() => {}) }]);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
});
