/**
 * WAL redo that boots when it is first needed, or when it is warmed: a PGlite of its own costs half a second and some 40 MB, and a branch that is
 * only looked at may never need it.
 *
 * `redoPage` before that throws `unavailable`, whose callers await `ready` and come again (engine/timeline/reconstruct.ts).
 */
import { messageOf, PageliteError } from '../../engine/errors.ts';
import type { Log, RedoRequest, WalRedo } from '../../engine/services.ts';

export class LazyRedo implements WalRedo {
  readonly #boot: () => Promise<WalRedo>;
  readonly #log: Log;
  #booting: Promise<WalRedo> | null = null;
  #redo: WalRedo | null = null;
  #closed = false;

  constructor(boot: () => Promise<WalRedo>, log: Log) {
    this.#boot = boot;
    this.#log = log;
  }

  /** Begins to boot; a failure is heard by whoever needs it. */
  warm(): void {
    this.#booted().catch((error) => this.#log.warn('WAL redo does not start', { error: messageOf(error) }));
  }

  redoPage(request: RedoRequest): Uint8Array {
    if (this.#redo === null) throw new PageliteError('unavailable', 'WAL redo is being started');
    return this.#redo.redoPage(request);
  }

  async ready(): Promise<void> {
    await (await this.#booted()).ready();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await (await this.#booting?.catch(() => null))?.close();
  }

  #booted(): Promise<WalRedo> {
    if (this.#closed) return Promise.reject(new PageliteError('closed', 'WAL redo is closed'));
    this.#booting ??= this.#boot().then(
      (redo) => {
        this.#redo = redo;
        return redo;
      },
      (error) => {
        // The next one who needs it tries again.
        this.#booting = null;
        throw error;
      },
    );
    return this.#booting;
  }
}
