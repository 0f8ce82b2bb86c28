/**
 * A safekeeper whose disk is put back to an older state, as from the wrong backup: it has forgotten what it acknowledged and promised. Its peers remember what
 * it has shown them; so it does not answer proposers until it has caught up with all of them, and nothing that was acknowledged is lost.
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
import type { SafekeeperPeer } from '../../engine/services.ts';
import { DiskSafekeeperStorage } from '../../server/safekeeper/disk-segments.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { hostClock, hostRandom, silentLog } from '../support/any-host.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { away } from './away.ts';
import { sampleProposerMessages } from './samples.ts';

const beginLsn = (walSegmentSize + 0x28) as Lsn;
const id = { tenantId: newTenantId(hostRandom), timelineId: newTimelineId(hostRandom) };
const refused = { kind: 'error', error: { kind: 'unavailable', data: { oldDisk: true } } };

let folder: string;
let nodes: (Safekeeper | null)[];
let upkeeps: (SafekeeperUpkeep | null)[];

const dir = (i: number) => join(folder, `${i}`);

function open(i: number): void {
  nodes[i] = new Safekeeper({
    nodeId: (i + 1) as NodeId,
    storage: new DiskSafekeeperStorage(dir(i)),
    log: silentLog,
  });
}

/** Its part in the rounds, as it knows the others now. */
function upkeepOf(i: number): SafekeeperUpkeep {
  const peers = nodes.filter((node, other) => node !== null && other !== i) as SafekeeperPeer[];
  return new SafekeeperUpkeep({ safekeeper: nodes[i]!, peers, backup: null, clock: hostClock, log: silentLog });
}

async function close(i: number): Promise<void> {
  await upkeeps[i]?.close();
  upkeeps[i] = null;
  await nodes[i]!.close();
  nodes[i] = null;
}

/** A process of its own begins: proposers are answered when its peers have said what they remember. */
function start(i: number): void {
  open(i);
  upkeeps[i] = upkeepOf(i);
  upkeeps[i]!.start();
}

async function round(...those: number[]): Promise<void> {
  for (const i of those) {
    const upkeep = upkeepOf(i);
    await upkeep.round();
    await upkeep.idle();
  }
}

/** A compute that reaches those; its WAL is committed, and all of them know that. */
async function write(...reached: number[]): Promise<Lsn> {
  const driver = await ProposerDriver.elect({
    id,
    services: reached.map((i) => nodes[i]!),
    startLsnIfEmpty: beginLsn,
    systemIdentifier: syntheticSystemIdentifier,
    configuration: configurationOf(
      1,
      [0, 1, 2].map((i) => (i + 1) as NodeId),
    ),
    clock: hostClock,
    random: hostRandom,
    log: silentLog,
  });
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

/** What a proposer hears when it says hello. */
async function greet(i: number) {
  const channel = nodes[i]!.connectProposer(id);
  const answer = new Promise<Uint8Array>((resolve) => channel.onMessage(resolve));
  const [greeting] = sampleProposerMessages;
  if (greeting?.kind !== 'proposerGreeting') throw new Error('the first sample is a greeting');
  const configuration = configurationOf(
    1,
    [1, 2, 3].map((node) => node as NodeId),
  );
  channel.send(
    encodeProposerMessage({
      ...greeting,
      timeline: id,
      systemIdentifier: syntheticSystemIdentifier,
      configuration,
    }),
  );
  const message = decodeAcceptorMessage(await answer);
  channel.close();
  return message.kind === 'error' ? { kind: 'error', error: message.error.toJSON() } : message;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'pagelite-old-disk-'));
  nodes = [null, null, null];
  upkeeps = [null, null, null];
  for (const i of nodes.keys()) open(i);
});

afterEach(async () => {
  for (const [i, node] of nodes.entries()) if (node !== null) await close(i);
  rmSync(folder, { recursive: true });
});

/** The third is as it was before the second compute, which the others were told of. */
async function putBack(): Promise<Lsn> {
  await write(0, 1, 2);
  await close(2);
  cpSync(dir(2), join(folder, 'copy'), { recursive: true });
  open(2);
  const endLsn = await write(0, 1, 2);
  await round(0, 1);
  await close(2);
  rmSync(dir(2), { recursive: true });
  cpSync(join(folder, 'copy'), dir(2), { recursive: true });
  return endLsn;
}

it('notices, and answers proposers when it has caught up with all others', async () => {
  const endLsn = await putBack();
  start(2);
  expect(await greet(2)).toMatchObject(refused);
  await expect.poll(() => nodes[2]!.refusalOf(id), { timeout: 20_000 }).toBe(null);
  const [first, third] = [await nodes[0]!.getStatus(id), await nodes[2]!.getStatus(id)];
  expect(third).toMatchObject({ flushLsn: endLsn, termHistory: first!.termHistory });
  expect(third!.term).toBeGreaterThanOrEqual(first!.term);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  // With it a compute goes on where the last one ended.
  await close(0);
  expect(await write(1, 2)).toBeGreaterThan(endLsn);
});

it('does not answer proposers while another is away', async () => {
  await putBack();
  await close(0);
  const peers = [nodes[1]!, away(1 as NodeId)];
  open(2);
  upkeeps[2] = new SafekeeperUpkeep({
    safekeeper: nodes[2]!,
    peers,
    backup: null,
    clock: hostClock,
    log: silentLog,
  });
  upkeeps[2].start();
  expect(await greet(2)).toMatchObject(refused);
  for (let i = 0; i < 3; i++) {
    await upkeeps[2].round();
    await upkeeps[2].idle();
  }
  expect((await nodes[2]!.getStatus(id))!.flushLsn).toBe((await nodes[1]!.getStatus(id))!.flushLsn);
  expect(await greet(2)).toMatchObject(refused);
});

it('is none if nothing was shown after the copy, or nobody remembers', async () => {
  await write(0, 1, 2);
  await round(0, 1, 2);
  await close(2);
  start(2);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
  await close(2);
  await putBackBefore();
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
});

/** As `putBack`, but the others have begun anew meanwhile. */
async function putBackBefore(): Promise<void> {
  open(2);
  await putBack();
  for (const i of [0, 1]) {
    await close(i);
    open(i);
  }
  start(2);
}

it('a disk that is empty begins anew, from what the others have', async () => {
  const endLsn = await putBack();
  rmSync(dir(2), { recursive: true });
  start(2);
  await expect.poll(async () => (await nodes[2]!.getStatus(id))?.flushLsn, { timeout: 20_000 }).toBe(endLsn);
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
});

it('answers at its start though a peer never does', async () => {
  await write(0, 1, 2);
  await close(2);
  open(2);
  const silent = { ...away(1 as NodeId), recall: () => new Promise<never>(() => {}) };
  upkeeps[2] = new SafekeeperUpkeep({
    safekeeper: nodes[2]!,
    peers: [silent],
    backup: null,
    clock: hostClock,
    log: silentLog,
  });
  upkeeps[2].start();
  expect(await greet(2)).toMatchObject({ kind: 'acceptorGreeting' });
});
