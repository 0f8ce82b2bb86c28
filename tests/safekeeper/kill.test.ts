/**
 * kill -9 of a real safekeeper process under load, again and again, loses no acknowledged byte: what `waitCommit` resolved for is there
 * afterwards, and the proposer goes on in its term without an error. Runs the build in dist/.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { concatBytes } from '../../engine/bytes.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import { type NodeId, newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { findFreePort } from '../../server/process/ports.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { equal } from '../contracts/wal-service.ts';
import { SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';

const entry = fileURLToPath(new URL('../../dist/server/safekeeper/main.js', import.meta.url));
const killCount = 6;
const startLsn = (2 * walSegmentSize - 100_000) as Lsn;

interface Ready {
  readonly kind: string;
  readonly info: { readonly listen: number };
}

async function startProcess(dir: string, port: number): Promise<{ child: ChildProcess; port: number }> {
  const args = ['-D', dir, '--listen-pg', `127.0.0.1:${port}`, '--listen-http', '127.0.0.1:0'];
  const child = spawn(process.execPath, [entry, ...args], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  const [message] = (await once(child, 'message')) as [Ready];
  if (message.kind !== 'ready') throw new Error(`the safekeeper did not start: ${JSON.stringify(message)}`);
  return { child, port: message.info.listen };
}

it('an acknowledged commit survives kill -9', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'pagelite-safekeeper-'));
  const port = await findFreePort(20_000 + (process.pid % 10_000));
  let running = await startProcess(dir, port);
  const service = connectSafekeeper({ id: 1 as NodeId, host: '127.0.0.1', port: running.port });
  const id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  try {
    const driver = await ProposerDriver.elect({
      id,
      services: [service],
      startLsnIfEmpty: startLsn,
      systemIdentifier: syntheticSystemIdentifier,
      clock: nodeClock,
      random: nodeRandom,
      log: silentLog,
    });
    const wal = new SyntheticWal(startLsn);
    const acknowledged: Uint8Array[] = [];
    let acknowledgedLsn: Lsn = startLsn;
    let writing = true;
    const load = (async () => {
      for (let i = 0; writing; i++) {
        const batch = [i % 700, 5000, 13].map((size) => wal.next(new Uint8Array(size + 1).fill(i % 251)));
        for (const record of batch) driver.append(record.startLsn, record.bytes);
        await driver.waitCommit(wal.endLsn);
        acknowledged.push(...batch.map(({ bytes }) => bytes));
        acknowledgedLsn = wal.endLsn;
      }
    })();
    for (let kill = 0; kill < killCount; kill++) {
      const before = acknowledgedLsn;
      // Under load: some commits after the last start, at no certain moment of one.
      while (acknowledgedLsn - before < 40_000 + 10_000 * kill) await new Promise((resolve) => setImmediate(resolve));
      running.child.kill('SIGKILL');
      await once(running.child, 'exit');
      const status = acknowledgedLsn;
      running = await startProcess(dir, port);
      expect((await service.getStatus(id))!.flushLsn).toBeGreaterThanOrEqual(status);
    }
    const last = acknowledgedLsn;
    while (acknowledgedLsn === last) await new Promise((resolve) => setImmediate(resolve));
    writing = false;
    await load;
    expect(driver.term).toBe(1);
    driver.close();

    const parts: Uint8Array[] = [];
    let at: number = startLsn;
    for await (const { bytes } of service.readWal(id, startLsn, new AbortController().signal)) {
      parts.push(bytes);
      at += bytes.length;
      if (at >= acknowledgedLsn) break;
    }
    const stored = concatBytes(parts);
    expect(at).toBe(acknowledgedLsn);
    expect(equal(stored, concatBytes(acknowledged))).toBe(true);

    running.child.kill('SIGTERM');
    const [code] = await once(running.child, 'exit');
    expect(code).toBe(0);
  } finally {
    running.child.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }
});
