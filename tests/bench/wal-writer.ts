/** A compute of the benchmarks, as far as safekeepers see it: one timeline's proposer and WAL without a Postgres. */
import { walInFlightBytesMax, walSegmentSize } from '../../engine/limits.ts';
import { newTenantId, newTimelineId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { WalService } from '../../engine/services.ts';
import { nodeClock, nodeRandom, silentLog } from '../../server/process/node-host.ts';
import { ProposerDriver } from '../../smgr-plugin/wal/proposer-driver.ts';
import { type SyntheticRecord, SyntheticWal, syntheticSystemIdentifier } from '../support/synthetic-wal.ts';
import { timed } from './harness.ts';

/** A small transaction's WAL. */
export const commitBytes = 300;
/** A record with a page in it. */
const recordBytes = 8192;
const commitPayload = new Uint8Array(commitBytes - 32);
const startLsn = (walSegmentSize + 40) as Lsn;

export class WalWriter {
  readonly id: TenantTimelineId = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
  readonly #services: readonly WalService[];
  #driver!: ProposerDriver;
  #wal = new SyntheticWal(startLsn);
  /** When its proposer last began to bring a safekeeper up to date. */
  recoveryBeganMs = 0;

  private constructor(services: readonly WalService[]) {
    this.#services = services;
  }

  static async elect(services: readonly WalService[]): Promise<WalWriter> {
    const writer = new WalWriter(services);
    await writer.elect();
    await writer.commits(5);
    return writer;
  }

  async elect(): Promise<void> {
    this.#driver = await ProposerDriver.elect({
      id: this.id,
      services: this.#services,
      startLsnIfEmpty: startLsn,
      systemIdentifier: syntheticSystemIdentifier,
      clock: nodeClock,
      random: nodeRandom,
      log: {
        ...silentLog,
        info: (text) => {
          if (text === 'bringing a safekeeper up to date') this.recoveryBeganMs = performance.now();
        },
      },
    });
    this.#wal = SyntheticWal.afterBoot(this.#driver.startLsn);
  }

  get endLsn(): Lsn {
    return this.#driver.endLsn;
  }

  /** Milliseconds of each, one after the other. */
  async commits(count: number): Promise<number[]> {
    const latencies: number[] = [];
    for (let i = 0; i < count; i++) latencies.push(await this.commit());
    return latencies;
  }

  /** Milliseconds of a small one. */
  commit(): Promise<number> {
    const record = this.#wal.next(commitPayload);
    return timed(() => {
      this.#driver.append(record.startLsn, record.bytes);
      return this.#driver.waitCommit(record.endLsn);
    });
  }

  /** WAL to stream next. */
  prepare(bytes: number): SyntheticRecord[] {
    const payload = new Uint8Array(recordBytes - 32);
    const records: SyntheticRecord[] = [];
    const { endLsn } = this.#wal;
    while (this.#wal.endLsn - endLsn < bytes) records.push(this.#wal.next(payload));
    return records;
  }

  /** As a compute does: as much as may be in flight. */
  async stream(records: readonly SyntheticRecord[]): Promise<void> {
    const driver = this.#driver;
    for (const record of records) {
      while (driver.inFlightBytes > walInFlightBytesMax) await driver.waitCommit((driver.commitLsn + 1) as Lsn);
      driver.append(record.startLsn, record.bytes);
    }
    await driver.waitCommit(this.#wal.endLsn);
  }

  close(): void {
    this.#driver.close();
  }
}
