// The bundle for pages without a build of their own: `dist/browser-bundle/pagelite.js`, its two workers and PGlite's files, all in one folder; and the
// service worker for hosts whose headers nobody can set.
// Built from the compiled modules, as an npm user's bundler builds them.
import { defineConfig } from 'vite';

const output = {
  entryFileNames: '[name].js',
  chunkFileNames: '[name]-[hash].js',
  assetFileNames: '[name]-[hash][extname]',
};

export default defineConfig({
  root: 'dist/browser',
  base: './',
  publicDir: false,
  logLevel: 'error',
  worker: { format: 'es', rollupOptions: { output } },
  build: {
    outDir: '../browser-bundle',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: false,
    chunkSizeWarningLimit: 2000,
    rollupOptions: {
      input: { pagelite: 'dist/browser/pagelite.js', 'isolation-worker': 'dist/browser/isolation-worker.js' },
      preserveEntrySignatures: 'strict',
      // The page takes PGlite's types and protocol; PGlite itself is the workers'.
      treeshake: { moduleSideEffects: (id) => !id.includes('@electric-sql/pglite') },
      output,
    },
  },
});
