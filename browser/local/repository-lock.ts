/**
 * One tab at a time has a repository open: a Web Lock of its name, held until `release` or until the worker that took it is gone, however it went.
 */
import { PageliteError } from '../../engine/errors.ts';
import { lockWaitMs } from './tab-limits.ts';

export class RepositoryLock {
  readonly #release: () => void;

  private constructor(release: () => void) {
    this.#release = release;
  }

  /** Throws `invalid` if another tab has it, and keeps it, or if this page is not one to which the browser gives locks. */
  static acquire(name: string): Promise<RepositoryLock> {
    if (navigator.locks === undefined) {
      const text = 'a page has branches of its own only in a secure context: serve it by HTTPS, or from localhost';
      return Promise.reject(new PageliteError('invalid', text, { repository: name }));
    }
    return new Promise((resolve, reject) => {
      const signal = AbortSignal.timeout(lockWaitMs);
      const held = navigator.locks.request(`pagelite-${name}`, { signal }, () => {
        return new Promise<void>((release) => resolve(new RepositoryLock(release)));
      });
      held.catch((cause: Error) => {
        const isTaken = cause.name === 'TimeoutError' || cause.name === 'AbortError';
        const text = isTaken
          ? `the repository "${name}" is open in another tab of this browser. Close that tab, or give this one a repository of its own with { name }`
          : `the repository "${name}" cannot be locked: ${cause.message}`;
        reject(new PageliteError(isTaken ? 'invalid' : 'unavailable', text, { repository: name }, { cause }));
      });
    });
  }

  release(): void {
    this.#release();
  }
}
