/** A PGlite on OPFS, which has its synchronous files in workers alone; the page talks to it through PGlite's own PGliteWorker. */
import { OpfsAhpFS } from '/pglite/fs/opfs-ahp.js';
import { PGlite } from '/pglite/index.js';
import { worker } from '/pglite/worker/index.js';

worker({
  init: ({ dataDir }) => PGlite.create({ fs: new OpfsAhpFS(dataDir.slice('opfs-ahp://'.length)) }),
});
