/** What a tab that may have been killed left to be settled, before any compute of the next one is there. Called by local-repository.ts as it opens. */
import { messageOf } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import type { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import type { Clock, Log, Random } from '../../engine/services.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { type BranchList, type BranchRecord, timelineOf } from './branch-list.ts';

interface Stores {
  readonly branches: BranchList;
  readonly pageserver: Pageserver;
  readonly safekeeper: Safekeeper;
}

interface Host {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** Every branch's end, before any compute is there to be fenced. One that is damaged says so to whoever opens it. */
export async function settleAll(stores: Stores, host: Host, signal: AbortSignal): Promise<void> {
  const settleOne = (record: BranchRecord) =>
    settle(stores, timelineOf(record), host, signal).catch((error) =>
      host.log.warn('the end of a branch is not settled', { branch: record.name, error: messageOf(error) }),
    );
  await Promise.all(stores.branches.branches.map(settleOne));
}

/**
 * A killed tab may have acknowledged more than its safekeeper has noted as committed. An election without a compute settles that, as the start of
 * a compute would.
 */
async function settle(
  { pageserver, safekeeper }: Stores,
  id: TenantTimelineId,
  { clock, random, log }: Host,
  signal: AbortSignal,
): Promise<void> {
  const status = await safekeeper.getStatus(id);
  if (status === null || status.flushLsn <= status.commitLsn) return;
  const { startLsn: startLsnIfEmpty } = await (await pageserver.openPages(id)).getStatus();
  const services = [safekeeper];
  const election = { id, services, startLsnIfEmpty, systemIdentifier: 0n, clock, random, log, signal };
  (await ProposerDriver.elect(election)).close();
}

/**
 * WAL that is in layers is read by nobody any more, and takes as much room again. Before any compute: one that is running may look back, at a
 * transaction that it has prepared.
 */
export async function trimAll({ branches, pageserver, safekeeper }: Stores, log: Log): Promise<void> {
  const trim = async (record: BranchRecord) => {
    const id = timelineOf(record);
    const { diskConsistentLsn } = await (await pageserver.openPages(id)).getStatus();
    await safekeeper.trim(id, diskConsistentLsn);
  };
  const warn = (record: BranchRecord) => (error: unknown) =>
    log.warn('the WAL of a branch is not given up', { branch: record.name, error: messageOf(error) });
  await Promise.all(branches.branches.map((record) => trim(record).catch(warn(record))));
}
