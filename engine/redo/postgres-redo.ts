/**
 * R9. WAL redo by Postgres itself, for as long as the pageserver runs: an instance (redo-instance.ts) and its driver (redo-driver.ts), and another
 * pair when they are lost.
 *
 * Called by the timeline (reconstruct.ts). Synchronous while there is an instance; in the 0.4 s after a record made Postgres panic, calls get
 * `unavailable`, and `ready` tells when to try again.
 */
import type { PGliteOptions } from '@electric-sql/pglite';
import { messageOf, PageliteError } from '../errors.ts';
import type { Log, RedoRequest, TenantTemplate, WalRedo } from '../services.ts';
import { RedoDriver } from './redo-driver.ts';
import { RedoInstance } from './redo-instance.ts';

export interface PostgresRedoOptions {
  readonly template: TenantTemplate;
  readonly artefacts?: Pick<PGliteOptions, 'pgliteWasmModule' | 'fsBundle'>;
  readonly log: Log;
}

export class PostgresRedo implements WalRedo {
  readonly #options: PostgresRedoOptions;
  #driver: RedoDriver | null = null;
  #booting: Promise<void> | null = null;
  #closed = false;

  private constructor(options: PostgresRedoOptions) {
    this.#options = options;
  }

  /** Boots an instance (about 0.4 s) and checks its layout. Throws `invalid` if this PGlite is not the one that the layout was read from. */
  static async create(options: PostgresRedoOptions): Promise<PostgresRedo> {
    const redo = new PostgresRedo(options);
    await redo.ready();
    return redo;
  }

  /** Resolves when `redoPage` can be called: at once, or after an instance that was lost has been replaced. */
  ready(): Promise<void> {
    if (this.#driver !== null) return Promise.resolve();
    this.#booting ??= this.#boot().finally(() => {
      this.#booting = null;
    });
    return this.#booting;
  }

  async #boot(): Promise<void> {
    const { template, artefacts, log } = this.#options;
    if (this.#closed) throw new PageliteError('closed', 'WAL redo is closed');
    const driver = new RedoDriver(await RedoInstance.boot(template, artefacts ?? {}, log));
    if (!this.#closed) this.#driver = driver;
  }

  redoPage(request: RedoRequest): Uint8Array {
    const driver = this.#driver;
    if (driver === null) {
      if (this.#closed) throw new PageliteError('closed', 'WAL redo is closed');
      throw new PageliteError('unavailable', 'WAL redo is being restarted');
    }
    try {
      return driver.redoPage(request);
    } finally {
      if (driver.lost) this.#replace();
    }
  }

  /** Starts another instance in the background; if it does not start, the next `ready` tries again. */
  #replace(): void {
    this.#driver = null;
    this.#options.log.error('the redo instance was lost; starting another');
    this.ready().catch((error: unknown) => {
      this.#options.log.error('the redo instance does not start', { error: messageOf(error) });
    });
  }

  /** The page under Postgres's rm_mask of a resource manager: what may differ between a page and its rebuilt twin is masked out. */
  maskPage(page: Uint8Array, rmid: number, block: number): Uint8Array {
    if (this.#driver === null) throw new PageliteError('unavailable', 'WAL redo is being restarted');
    return this.#driver.maskPage(page, rmid, block);
  }

  /** Memory of the instance's module, which grows and never shrinks; 0 while there is none. */
  get memoryBytes(): number {
    return this.#driver?.memoryBytes ?? 0;
  }

  async close(): Promise<void> {
    this.#closed = true;
    // The instance has an open transaction and nothing to save: it is simply let go.
    this.#driver = null;
  }
}
