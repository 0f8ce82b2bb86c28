/**
 * PostgreSQL's own WAL passes the acceptor's checks and comes back byte for byte: records of all sizes, over pages and a segment switch, cut
 * anywhere; every commit's end is a boundary that a safekeeper acknowledges.
 */

import { expect, it } from 'vitest';
import { concatBytes } from '../../engine/bytes.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import { newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import { RecordScan } from '../../engine/wal/record-scan.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { equal } from '../contracts/wal-service.ts';
import { captureWal, plainPglite } from '../support/wal-fixture.ts';

it("PostgreSQL's WAL is stored and read back", async () => {
  const pg = await plainPglite();
  const { startLsn, endLsn, wal, systemIdentifier } = await captureWal(pg, [
    'create table t (id int primary key, v text)',
    "insert into t select i, repeat('x', i % 300) from generate_series(1, 5000) i",
    "select pg_logical_emit_message(true, 'large', repeat('y', 200000))",
    'select pg_switch_wal()',
    'update t set v = v || id where id % 3 = 0',
    'vacuum t',
    'drop table t',
  ]);
  await pg.close();

  const whole = new RecordScan(startLsn);
  expect(whole.feed(wal), whole.problem ?? '').toBe(true);
  expect(whole.boundaryLsn).toBe(endLsn);

  const id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  const service = new Safekeeper({ nodeId: 1 as NodeId, storage: new MemorySafekeeperStorage(), log: silentLog });
  const driver = await ProposerDriver.elect({
    id,
    services: [service],
    startLsnIfEmpty: startLsn,
    systemIdentifier,
    clock: nodeClock,
    random: nodeRandom,
    log: silentLog,
  });
  let step = 1;
  for (let at = 0; at < wal.length; ) {
    step = (step * 31 + 7) % 90_001;
    const part = wal.slice(at, at + step + 1);
    driver.append((startLsn + at) as Lsn, part);
    at += part.length;
    await driver.waitCommit((startLsn + at) as Lsn);
  }
  expect(driver.commitLsn).toBe(endLsn);
  driver.close();

  const parts: Uint8Array[] = [];
  let at: number = startLsn;
  for await (const { bytes } of service.readWal(id, startLsn, new AbortController().signal)) {
    parts.push(bytes);
    at += bytes.length;
    if (at >= endLsn) break;
  }
  expect(equal(concatBytes(parts), wal)).toBe(true);
  await service.close();
});
