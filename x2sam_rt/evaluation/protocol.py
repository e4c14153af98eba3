from x2sam_rt.evaluation.chunks import Cutting, sparse_language_frames
CUTTINGS={'vipseg':Cutting(needs_label=True),'vspw':Cutting(),'youtube-vis':Cutting(unlabelled='removed_first'),'v-vgd-yt19':Cutting(unlabelled='removed_first'),
'ref-youtube-vos':Cutting(unlabelled='removed_after'),'ref-davis17':Cutting(unlabelled='removed_after'),'youtube-vos':Cutting(unlabelled='removed_after'),'revos':Cutting('span',8,'removed_after'),'gcg-video':Cutting('span',16)}
def language_frames(name, n): return sparse_language_frames(n)
